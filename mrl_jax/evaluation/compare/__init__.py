"""`mrl-jax eval compare`."""
