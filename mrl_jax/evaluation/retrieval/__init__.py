"""`mrl-jax eval retrieval`."""
