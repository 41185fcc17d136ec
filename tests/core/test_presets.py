"""Configs by the name of a preset, or by the path of a file."""

import pytest
from repository import ROOT

from mrl_jax.core.errors import MrlError
from mrl_jax.core.presets import bundled_folder, find_config, preset_names


def test_a_preset_is_found_by_its_name():
    assert find_config("late_fusion") == ROOT / "configs" / "late_fusion.py"
    assert preset_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    for name in preset_names():
        assert find_config(name).is_file()


def test_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "late_fusion.py").touch()
    (tmp_path / "other").touch()
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "late_fusion.py"), "late_fusion.py", "./other"):
        assert str(find_config(path)) == path.removeprefix("./")
    assert find_config("late_fusion").parent == bundled_folder("configs")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("late_fusio", r"'late_fusio' is no preset\. Did you mean late_fusion\?"),
        ("xyzzy", r"'xyzzy' is no preset\. Expected one of .*late_fusion"),
        ("", r"the path is empty"),
        ("late_fusion.py", r"late_fusion\.py: no such config\. Did you mean late_fusion\?"),
        ("configs/demo.py", r"configs/demo\.py: no such config\. Did you mean demo\?"),
        ("mine/tinny.py", r"mine/tinny\.py: no such config\. Did you mean mine/tiny\.py\?"),
        ("mine", r"'mine' is no preset"),
        ("mine/", r"mine: no such config"),
        ("nowhere/at_all.py", r"nowhere/at_all\.py: no such config"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest(name, message, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tiny.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MrlError, match=message):
        find_config(name)
