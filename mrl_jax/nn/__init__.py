"""Shared maths of the towers: no configs, no checkpoints."""
