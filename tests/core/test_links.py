"""Links in a folder: into the hub's cache they are followed, elsewhere they are not."""

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.core.links import check_links


def test_links_inside_are_followed_and_others_are_not(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    folder = tmp_path / "checkpoint"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "real.json").write_text("{}")
    (folder / "config.json").symlink_to("real.json")
    (folder / "data").symlink_to(tmp_path)  # Nothing is read there.
    assert check_links(folder) == folder
    for name in ("tokenizer.json", "model.safetensors", "1_Pooling/config.json"):
        (folder / name).symlink_to(secret)
        with pytest.raises(MrlError, match=rf"{name}: is a link to .*not followed.*a copy"):
            check_links(folder)
        (folder / name).unlink()
    (folder / "2_Dense").symlink_to(tmp_path)
    with pytest.raises(MrlError, match="2_Dense: is a link"):
        check_links(folder)


def test_snapshots_of_the_hubs_cache_are_links_into_it(tmp_path):
    model = tmp_path / "hub" / "models--a--b"
    snapshot = model / "snapshots" / "abc"
    for place in (snapshot, model / "blobs", tmp_path / "hub" / "blobs" / "00"):
        place.mkdir(parents=True)
    (model / "blobs" / "1").write_text("{}")
    (tmp_path / "hub" / "blobs" / "00" / "2").write_text("{}")
    (model / "blobs" / "2").symlink_to("../../blobs/00/2")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    assert check_links(snapshot) == snapshot
    alias = tmp_path / "alias"
    alias.symlink_to(snapshot)
    assert check_links(alias) == alias
    (tmp_path / "hub" / "token.json").write_text("secret")
    (snapshot / "token.json").symlink_to("../../../token.json")
    with pytest.raises(MrlError, match="is not followed"):
        check_links(snapshot)
