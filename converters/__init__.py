"""Published PyTorch checkpoints to towers and back; the one place that knows their tensor names."""

FAMILIES = {
    "qwen3": "Convert a Qwen3 text checkpoint into a tower folder.",
    "hubert": "Convert a HuBERT speech checkpoint into a tower folder.",
}
"""Families of checkpoints by model type: what the command says of each. The file of that name
defines it as `FAMILY`."""
