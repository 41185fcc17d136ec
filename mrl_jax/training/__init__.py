"""Training: the optimiser, the step, the loop."""
