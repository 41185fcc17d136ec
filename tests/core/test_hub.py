"""Names on the hub, and its cache."""

import errno
from pathlib import Path

import pytest

from mrl_jax.checkpoints.checksum_command import main as checksum
from mrl_jax.core.checksums import update_hint
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import (
    HubName,
    hub_name,
    hub_name_of,
    hub_problem,
    is_pinned,
    refuse_snapshot,
    shown_model,
)
from mrl_jax.evaluation.spectrum.fit_rotation import fit_model_rotation

COMMIT = "ab" * 20
UPDATE = "mrl-jax checksum --update"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/tiny", HubName("me/tiny")),
        ("me/tiny@v1.0", HubName("me/tiny", "v1.0")),
        ("me/tiny@refs/pr/1", HubName("me/tiny", "refs/pr/1")),
        ("me/tiny@", None),
        ("tiny", None),
        ("/me/tiny", None),
        ("./tiny", None),
        ("../me/tiny", None),
        ("a/b/c", None),
        ("s3://me/tiny", None),
    ],
)
def test_a_name_is_told_from_a_path(text, expected):
    assert hub_name(text) == expected
    assert expected is None or str(expected) == text


def test_a_snapshot_is_shown_by_its_name():
    snapshot = Path("/cache/models--me--ti--ny/snapshots") / COMMIT
    assert hub_name_of(snapshot) == HubName("me/ti--ny", COMMIT)
    assert shown_model(snapshot) == f"me/ti--ny@{COMMIT}"
    assert is_pinned(shown_model(snapshot))
    assert not is_pinned("me/tiny@main")
    for other in (snapshot.parent, snapshot / "speech", Path("runs/mine")):
        assert hub_name_of(other) is None
        assert shown_model(other) == str(other)


def test_the_cache_is_not_written_into_and_its_damage_is_not_stamped(tmp_path):
    snapshot = tmp_path / "models--me--tiny/snapshots" / COMMIT
    (snapshot / "speech").mkdir(parents=True)
    refuse_snapshot(tmp_path, by="a test")
    copy = f"which --update does not change.*hf download me/tiny --revision {COMMIT}"
    for folder in (snapshot, snapshot / "speech"):
        with pytest.raises(MrlError, match=copy):
            checksum(["--update", str(folder)])
        hint = update_hint(folder, "train it again")
        assert hint.startswith(f"remove {tmp_path / 'models--me--tiny'}, and load the model again")
    with pytest.raises(MrlError, match="which a rotation does not change"):
        fit_model_rotation(snapshot, "fleurs:wo-fr")
    assert update_hint(tmp_path) == f"if the change is meant, run `{UPDATE} {tmp_path}`"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOTDIR])
def test_a_full_disk_is_not_called_a_missing_network(number):
    problem, hint = hub_problem(OSError(number, "what the system says"), None)
    assert problem.startswith("could not be kept in the hub's cache (")
    assert "HF_HOME" in hint
    problem, _ = hub_problem(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), None)
    assert "the hub could not be reached" in problem
