"""Published PyTorch checkpoints to towers and back; the one place that knows their tensor names."""

FAMILIES = {
    "qwen3": "Convert a Qwen3 text checkpoint into a tower folder.",
    "hubert": "Convert a HuBERT speech checkpoint into a tower folder.",
}
"""Families of checkpoints by model type, with their help texts; the file of that name defines
each as `FAMILY`."""
