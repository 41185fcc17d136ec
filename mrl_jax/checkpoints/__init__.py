"""Weights on disk: towers, trained models, the state of a run."""
