"""What the tests of all runs share."""

import jax
import pytest

from mrl_jax.training.devices import Devices


@pytest.fixture(scope="session")
def one_device() -> Devices:
    return Devices("pmap", jax.devices()[:1])
