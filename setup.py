"""Where a wheel has its packages; everything else is in pyproject.toml.

`converters/` and `configs/` are folders at the top level of the project. A wheel has them inside
`mrl_jax`, so that site-packages gets no package of so general a name.
"""

from setuptools import find_namespace_packages, setup

BUNDLED = {"mrl_jax.converters": "converters", "mrl_jax.configs": "configs"}

setup(
    packages=[*find_namespace_packages(include=["mrl_jax*"]), *BUNDLED],
    package_dir=BUNDLED,
)
