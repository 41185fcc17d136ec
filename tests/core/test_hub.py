"""Names on the hub."""

from pathlib import Path

import pytest

from mrl_jax.core.hub import HubName, hub_name, hub_name_of, is_pinned, shown_model

COMMIT = "ab" * 20


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
