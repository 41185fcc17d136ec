"""`mrl-jax train`: what it does with its words, without any training."""

import pytest
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.training.command import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "{cascade}"], "hint"),
        (["--config", "late_fusoin"], "Did you mean late_fusion?"),
        (["--config", str(ROOT / "configs" / "dmeo.py")], "demo"),
        ([], "--config"),
        (["--cofnig", "demo"], "Did you mean --config?"),
        (["--config", "demo", "model.kind=dual_encodr"], "Did you mean dual_encoder?"),
        (["--config", "demo", "model.dtype=bfloat61"], "Did you mean bfloat16?"),
        (["--config", "demo", "name="], "name is '', expected a folder's name"),
        (["--config", "demo", "name=../x"], "name is '../x', expected a folder's name"),
        (["--config", "demo", "name=.."], "name is '..', expected a folder's name"),
        (["--config", "text_stage", "model.new.units=words"], "Set model.new in a config file"),
    ],
)
def test_wrong_words_are_one_line_and_status_2(words, message, tmp_path, capsys):
    cascade = tmp_path / "cascade.py"
    cascade.write_text(
        "from mrl_jax.inference.cascade_config import CascadeConfig\n\n\n"
        "def get_config():\n"
        "    return CascadeConfig(name='c', recogniser='a', text_tower='b')\n"
    )
    words = [word.format(cascade=cascade) for word in words]
    expected = f"mrl-jax cascade --config {cascade}" if message == "hint" else message
    assert run_command(main, words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("error:") for line in lines) == 1
    assert expected in "\n".join(lines)


def test_help_names_the_caller(capsys):
    for options, prog in (({}, "mrl-jax train"), ({"prog": "python train.py"}, "python train.py")):
        with pytest.raises(SystemExit):
            main(["--help"], **options)
        assert f"usage: {prog} " in capsys.readouterr().out
