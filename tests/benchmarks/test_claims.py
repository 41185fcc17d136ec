"""benchmarks/claims.py: what it refuses, and a whole world in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_claims
from repository import ROOT


def claims(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/claims.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--world", "mbosh"), "'mbosh' is not known. Did you mean mboshi?"),
        (("--only", "txt"), "'txt' is not known"),
        (("--world", "digits", "--part", "teo"), "digits has no part 'teo'. Did you mean theo?"),
        (("--world", "mboshi", "--only", "data", "--data", "nowhere"), "data of this world"),
        (("--world", "arabic", "--only", "ctc"), "un the step `build` first"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words: tuple[str, ...], problem: str, tmp_path: Path):
    done = claims(*words, "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert problem in done.stderr


@pytest.mark.slow
def test_a_world_goes_through_the_commands_once(tmp_path: Path):
    tiny_claims.write_mboshi_data(tmp_path / "data" / "mboshi")
    out = tmp_path / "out"
    words = ("--smoke", "--world", "mboshi", "--data", tmp_path / "data", "--out", out)
    steps = "data,build,text,ctc,linear,cascade,compare,transcribe,count,record"
    chosen = ("--only", steps, "--skip", "regression,dual,soft,soft_all,soft_trained")
    done = claims(*words, *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("$ mrl-jax ") == 8
    world = json.loads((out / "claims.json").read_text())["worlds"]["mboshi"]
    assert set(world["systems"]) == {"linear", "cascade"}
    assert world["queries"] == 20
    for system in world["systems"].values():
        assert set(system["ndcg@10"]) == {"96", "48", "24", "12"}
        assert system["speech tokens a second"] > 0
    assert world["recognition"]["wer"]["mean"] > 0
    again = claims(*words, *chosen)
    assert again.returncode == 0, again.stderr
    assert "$ mrl-jax " not in again.stdout
