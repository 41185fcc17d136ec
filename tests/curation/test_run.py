"""Whole curations: equal to the byte with one process or two, killed or not, and ready to build."""

import dataclasses
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
import soundfile
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.curation import command
from mrl_jax.curation.card import write_card
from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.filter import FilterConfig
from mrl_jax.curation.mix import MixConfig
from mrl_jax.curation.pipeline import run_stage
from mrl_jax.curation.probe import Probe, ProbeConfig
from mrl_jax.curation.rows import Row, read_rows
from mrl_jax.curation.run import curate
from mrl_jax.curation.score import ScoreConfig
from mrl_jax.curation.segment import SegmentConfig
from mrl_jax.curation.shards import Workers
from mrl_jax.curation.sources import ManifestSource, ParallelSource, RecordingsSource
from mrl_jax.curation.split import SplitConfig
from mrl_jax.data.build.builder import build_dataset
from mrl_jax.data.sets.manifest import read_manifest

RATE = 16_000
CLIPS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A manifest of short clips, some noisy and one broken, a long recording, parallel texts."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(CLIPS):
        times = np.arange(int(RATE * (0.8 + 0.02 * number))) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (200 + 10 * number) * times) * ((times % 0.3) < 0.2)
        loud = 0.3 if number % 6 == 5 else 0.001
        wave += loud * draw.standard_normal(times.size)
        soundfile.write(folder / f"{number}.wav", np.clip(wave, -1, 1).astype(np.float32), RATE)
        fields = {"id": number, "audio": f"{number}.wav", "text": f"document {number}"}
        fields["task"] = "find" if number % 3 else "hear"
        lines.append(json.dumps({**fields, "speaker": f"s{number % 12}", "transcript": "a b c"}))
    (folder / "3.wav").write_bytes(b"RIFF nothing")
    (folder / "clips.jsonl").write_text("\n".join(lines))
    (folder / "long").mkdir()
    soundfile.write(folder / "long/l.flac", 0.01 * draw.standard_normal(RATE * 4), RATE)
    (folder / "a.txt").write_text("".join(f"satz {i}\n" for i in range(20)))
    (folder / "b.txt").write_text("".join(f"sentence {i}\n" for i in range(20)))
    return folder


def config_of(data: Path, workers: int = 1, **fields) -> CurationConfig:
    stages = (
        SegmentConfig(),
        ScoreConfig(),
        FilterConfig(minimum={"score.snr_db": 10.0}),
        SplitConfig(parts={"train": 0.7, "dev": 0.3}, seed=3),
        MixConfig(by="task", temperature=3.0),
    )
    sources = (
        ManifestSource(name="clips", path=str(data / "clips.jsonl"), keep_split=False),
        RecordingsSource(name="long", path=str(data / "long")),
        ParallelSource(name="text", path=str(data / "a.txt"), second=str(data / "b.txt")),
    )
    return CurationConfig(**{"sources": sources, "stages": stages, "workers": workers, **fields})


def made(folder: Path) -> dict[str, bytes]:
    """Every file that a run is for, by name."""
    paths = [*folder.glob("*.jsonl"), *folder.glob("card.*"), *folder.glob("clips/*")]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    curate(config_of(data), folder, log=lambda line: None)
    return folder


def test_tables_hold_what_was_kept_and_rows_everything(data, finished):
    rows = [json.loads(line) for line in (finished / "rows.jsonl").read_text().splitlines()]
    dropped = {row["id"]: row["dropped"] for row in rows if "dropped" in row}
    noisy = {f"clips/{number}" for number in range(CLIPS) if number % 6 == 5}
    assert set(dropped) == noisy | {"clips/3", "long/l.flac@0.00"}
    assert dropped["clips/3"].startswith("source: cannot be decoded as audio")
    assert dropped["long/l.flac@0.00"] == "segment: holds no speech"
    assert dropped["clips/5"].startswith("filter: score.snr_db is ")
    manifest = read_manifest(finished / "manifest-train.jsonl")
    other = read_manifest(finished / "manifest-dev.jsonl")
    ids = {one.id for one in (*manifest, *other)}
    assert ids == {f"clips/{number}" for number in range(CLIPS)} - noisy - {"clips/3"}
    assert not {one.speaker for one in manifest} & {one.speaker for one in other}
    pairs = [json.loads(line) for line in (finished / "pairs-train.jsonl").read_text().splitlines()]
    assert {"query", "document"} <= set(pairs[0])


def test_the_card_counts_what_the_rows_say_and_its_links_lead_somewhere(finished):
    rows = read_rows(finished / "rows.jsonl")
    card = (finished / "card.md").read_text()
    noisy = sum((row.dropped or "").startswith("filter: ") for row in rows)
    hours = sum(row.seconds or 0 for row in rows if (row.dropped or "").startswith("filter: "))
    rule = "filter: score.snr_db, expected 10 or more"
    assert f"| {rule} | {noisy} | {hours / 3600:.2f} |" in card
    assert "| segment: holds no speech | 1 | 0.00 |" in card
    kept = sum(row.dropped is None for row in rows)
    assert f"{kept} rows are kept of {len(rows)}" in card
    links = re.findall(r"\]\((.*?)\)", card)
    assert len(links) > 5
    for link in links:
        assert (finished / urllib.parse.unquote(link)).is_file(), link
    html = (finished / "card.html").read_text()
    assert html.count("<audio") == sum(not link.endswith(".png") for link in links)


def test_rows_made_by_a_machine_are_counted(tmp_path):
    rows = [
        Row(id="a", transcript="x", text="y", synthetic="text"),
        Row(id="b", transcript="x", text="y"),
        Row(id="c", transcript="x", text="y", synthetic="text").drop("filter", "bad"),
    ]
    config = CurationConfig(sources=(ParallelSource(name="p", path="p"),))
    result = run_stage(
        ProbeConfig(), Probe(ProbeConfig()), rows, number=0, folder=tmp_path, workers=Workers(1)
    )[1]
    write_card(config, rows, [result], {}, (), tmp_path)
    assert "Made by a machine: 1 rows (text)." in (tmp_path / "card.md").read_text()


def test_a_manifest_builds(finished, tmp_path):
    report = build_dataset(finished / "manifest-dev.jsonl", tmp_path / "set")
    assert not report.skipped


def test_a_second_run_does_nothing_and_two_processes_give_the_same(data, finished, tmp_path):
    again = curate(config_of(data), finished, log=lambda line: None)
    assert not any(stage.ran for stage in again.stages)
    other = curate(config_of(data, workers=2), tmp_path / "two", log=lambda line: None)
    assert all(stage.ran for stage in other.stages)
    assert made(tmp_path / "two") == made(finished)


def test_another_seed_gives_another_split_and_reruns_only_that(data, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    config = config_of(data)
    *before, split, mix = config.stages
    changed = (*before, dataclasses.replace(split, seed=4), mix)
    config = dataclasses.replace(config, stages=changed)
    run = curate(config, tmp_path / "copy", log=lambda line: None)
    assert [stage.ran for stage in run.stages] == [False] * 4 + [True] * 3
    assert made(tmp_path / "copy") != made(finished)


def test_a_changed_recording_is_read_again(data, finished, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    curate(config_of(tmp_path / "data"), tmp_path / "out", log=lambda line: None)
    soundfile.write(tmp_path / "data/3.wav", np.sin(np.arange(RATE) / 9) * 0.3, RATE)
    run = curate(config_of(tmp_path / "data"), tmp_path / "out", log=lambda line: None)
    assert run.stages[0].ran
    assert (run.stages[0].before, run.stages[0].after) == (45, 45)


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from mrl_jax.core.cli import run_command
from mrl_jax.curation.run import curate

def main(argv):
    import pickle
    config = pickle.loads(Path(argv[0]).read_bytes())
    curate(config, Path(argv[1]))
    return 0

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


def command_of(data: Path, tmp_path: Path, workers: int) -> list[str]:
    (tmp_path / "run.py").write_text(RUN.format(tests=str(ROOT)))
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config_of(data, workers)))
    script = [str(tmp_path / name) for name in ("run.py", "config.pickle", "out")]
    return [sys.executable, *script]


def wait_for_shards(process: subprocess.Popen, stages: Path, count: int) -> bool:
    """Whether a run wrote so many more files of its stages, rather than ended before."""
    old = set(stages.rglob("*.jsonl"))
    new: set[Path] = set()
    while process.poll() is None:
        new |= set(stages.rglob("*.jsonl")) - old
        if len(new) >= count:
            return True
        time.sleep(0.003)
    return False


def folders(stages: Path) -> set[str]:
    """Names of the stages' folders, but for the last, whose config names the run's folder."""
    return {path.name for path in stages.iterdir() if "-output-" not in path.name}


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(data, finished, tmp_path):
    words = command_of(data, tmp_path, 2)
    draw = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stages = tmp_path / "out/stages"
    kills = shards = 0
    while kills < 10:
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        if wait_for_shards(process, stages, draw.randrange(1, 16)):
            time.sleep(draw.uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            shards = max(shards, len(list(stages.glob("*/parts/*.jsonl"))))
        else:  # It finished: the next one has some stages to do over.
            assert process.wait() == 0
            for folder in sorted(stages.iterdir())[draw.randrange(3) :]:
                shutil.rmtree(folder)
        # A torn shard would change a digest, and so the folders of the stages behind it.
        assert folders(stages) <= folders(finished / "stages")
    assert shards > 0
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert made(tmp_path / "out") == made(finished)


@pytest.mark.slow
def test_sigterm_ends_it_with_its_workers(data, tmp_path):
    words = command_of(data, tmp_path, 2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(tmp_path.glob("out/stages/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert not (tmp_path / "out/run.lock").exists()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes are left")


def test_every_row_dropped_is_one_line_with_its_rule(data, tmp_path):
    stages = (ScoreConfig(), FilterConfig(minimum={"seconds": 50.0}))
    sources = (RecordingsSource(name="long", path=str(data / "long")),)
    config = CurationConfig(sources=sources, stages=stages)
    with pytest.raises(
        MrlError, match=r"no row is left of 1: filter: seconds, expected 50 or more"
    ):
        curate(config, tmp_path / "out", log=lambda line: None)
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_the_command_reads_a_preset_and_refuses_in_one_line(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config", "curate", "--workdir", "out", f"sources.radio.path={data}/long"]
    status = run_command(command.main, [*words, "workers=1"])
    lines = capsys.readouterr().err.splitlines()
    assert (status, len(lines)) == (2, 1)
    assert "no row is left of 1: segment: holds no speech" in lines[0]
    status = run_command(command.main, [*words, "stages.filter.minimum.score.snr=4"])
    assert status == 2
    assert "Did you mean score.snr_db" in capsys.readouterr().err
    status = run_command(command.main, ["--config", "curate", "--workdir", "out2"])
    assert status == 2
    assert "data/radio: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()


def test_files_that_no_run_made_are_neither_replaced_nor_removed(data, tmp_path):
    config = config_of(data)
    for name in ("clips/mine.flac", "manifest-mine.jsonl", "set-mine/queries.jsonl"):
        path = tmp_path / name.partition("/")[0] / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"mine")
        with pytest.raises(MrlError, match="which a run would replace, and no run made"):
            curate(config, path.parents[name.count("/")], log=lambda line: None)
        assert path.read_bytes() == b"mine"


def test_a_run_keeps_other_files_among_its_clips_and_takes_none_as_a_source(
    data, finished, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "clips").mkdir(exist_ok=True)
    shutil.copy(data / "0.wav", out / "clips/mine.flac")
    curate(config_of(data), out, log=lambda line: None)
    assert (out / "clips/mine.flac").is_file()
    own = RecordingsSource(name="own", path=str(out / "clips"))
    config = config_of(data)
    config = dataclasses.replace(config, sources=(*config.sources, own))
    with pytest.raises(MrlError, match=r"'own/mine.flac' is a clip that a run wrote there"):
        curate(config, out, log=lambda line: None)
