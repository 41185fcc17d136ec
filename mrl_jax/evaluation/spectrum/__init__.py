"""`mrl-jax eval spectrum`."""
