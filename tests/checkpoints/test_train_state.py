"""Checkpoints of a run whose folder is at an address."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from mrl_jax.checkpoints.train_state import FILES_FILE, RunCheckpoints
from mrl_jax.core.addresses import place_of


@pytest.mark.parametrize(("remote", "latest"), [(True, 1), (False, 2)])
def test_a_step_that_was_half_uploaded_is_left_out(remote, latest, tmp_path, monkeypatch):
    monkeypatch.setenv("MRL_JAX_CACHE", str(tmp_path / "cache"))
    folder: Path = (place_of("s3://bucket/run") if remote else tmp_path) / "checkpoints"
    with RunCheckpoints(folder, keep_last=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"a": jnp.full(2, step)}, {"model": "x"})
    (folder / "2" / FILES_FILE).unlink()  # The last file to be uploaded.
    with RunCheckpoints(folder, verify=False) as checkpoints:
        assert checkpoints.latest_step == latest
        state = checkpoints.restore(latest, {"a": jnp.zeros(2, int)}, {"model": "x"})
    assert state["a"].tolist() == [latest, latest]
