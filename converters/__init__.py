"""Published PyTorch checkpoints to towers and back; the one place that knows their tensor names."""
