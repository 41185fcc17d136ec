"""The offline demo: `python -m mrl_jax.demo`."""
