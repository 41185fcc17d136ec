"""Published PyTorch checkpoints to towers and back; the one place that knows their tensor names."""

FAMILIES = {
    "qwen3": "Convert a Qwen3 text checkpoint into a tower folder.",
    "speech": "Convert a speech checkpoint of any family into a tower folder.",
    "hubert": "Convert a HuBERT speech checkpoint into a tower folder.",
}
"""What a command converts, with its help text: a family of checkpoints, or one of SPEECH."""
SPEECH = {
    "hubert": "HuBERT",
    "wav2vec2": "wav2vec 2.0, XLSR-53, XLS-R, MMS",
    "unispeech-sat": "UniSpeech-SAT",
    "wavlm": "WavLM",
}
"""Families of speech checkpoints by model type; the file of that name defines each as `FAMILY`."""
