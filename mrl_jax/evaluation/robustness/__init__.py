"""`mrl-jax eval robustness`."""
