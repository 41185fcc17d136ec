"""`mrl-jax eval tradeoff`."""
