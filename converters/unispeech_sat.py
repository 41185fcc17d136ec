"""UniSpeech-SAT checkpoints."""

from .hubert import speech_family

FAMILY = speech_family("unispeech-sat", "UniSpeechSat")
