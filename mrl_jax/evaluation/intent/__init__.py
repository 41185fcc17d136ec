"""`mrl-jax eval intent`."""
