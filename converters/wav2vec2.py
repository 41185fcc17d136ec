"""wav2vec 2.0 checkpoints, and those of the same name: XLSR-53, XLS-R and MMS."""

from .hubert import speech_family

FAMILY = speech_family("wav2vec2", "Wav2Vec2")
