"""`mrl-jax eval transcribe`."""
