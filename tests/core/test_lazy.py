"""Packages whose names are imported when they are first used."""

import importlib

import pytest

from mrl_jax.core.lazy import homes_of, lazy_getattr
from mrl_jax.metrics import ranking, ties


def test_a_name_comes_from_its_module():
    homes = homes_of("mrl_jax.metrics", {"ranking": "ndcg recall", "ties": "TiedRanking"})
    assert homes == {
        "ndcg": "mrl_jax.metrics.ranking",
        "recall": "mrl_jax.metrics.ranking",
        "TiedRanking": "mrl_jax.metrics.ties",
    }
    look_up = lazy_getattr("mrl_jax.metrics", homes)
    assert look_up("recall") is ranking.recall
    assert look_up("TiedRanking") is ties.TiedRanking
    with pytest.raises(AttributeError, match=r"module 'mrl_jax\.metrics' has no attribute 'ties'"):
        look_up("ties")


@pytest.mark.parametrize("package", ["losses", "metrics"])
def test_every_name_that_a_package_offers_is_there(package):
    module = importlib.import_module(f"mrl_jax.{package}")
    homes = homes_of(module.__name__, module.NAMES)
    assert module.__all__ == [*homes]
    for name, home in homes.items():
        value = getattr(module, name)
        assert getattr(value, "__module__", home) == home
