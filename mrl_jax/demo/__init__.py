"""The offline demo: `mrl-jax demo`."""
