"""The towers as Flax NNX modules; each file stands alone."""
