"""Shares of sources and tasks become weights of rows, which manifest and data set carry on."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import soundfile
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.config import CurationConfig, override_curation
from mrl_jax.curation.mix import Mix, MixConfig
from mrl_jax.curation.pipeline import make_stages
from mrl_jax.curation.rows import Row, read_rows, write_rows
from mrl_jax.curation.run import curate
from mrl_jax.curation.sources import ManifestSource, TextSource
from mrl_jax.curation.split import SplitConfig
from mrl_jax.data.batches.mix import TaskMixConfig, draws_of, shares_of
from mrl_jax.data.batches.plan import BatchPlan
from mrl_jax.data.build.builder import build_dataset
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.data.sets.manifest import read_manifest

RATE = 16_000
ROWS = [
    *(
        Row(id=f"radio/{i}", audio=f"{i}.wav", text=f"t{i}", task="find", split="train")
        for i in range(30)
    ),
    *(Row(id=f"read/{i}", audio=f"r{i}.wav", transcript="x", task="hear") for i in range(10)),
    Row(id="radio/test", audio="a.wav", text="t", task="find", split="test"),
    Row(id="texts/1", text="t"),
    Row(id="radio/clip", audio="b.wav"),
]


def weights_of(rows):
    return {row.id: row.weight for row in rows}


def mixed(rows=ROWS, **fields):
    return Mix(MixConfig(**fields)).apply(rows)


def test_shares_become_weights_of_the_rows_that_are_trained_on():
    out = mixed(shares={"radio": 0.5, "read": 0.5})
    assert [dataclasses.replace(row, weight=None) for row in out] == ROWS
    weights = weights_of(out)
    assert weights["radio/0"] == pytest.approx(20 / 30, abs=1e-8)
    assert weights["read/0"] == 2.0
    assert [weights[row.id] for row in ROWS[40:]] == [None] * 3
    assert np.mean([row.weight for row in out[:40] if row.weight]) == pytest.approx(1.0)
    assert weights_of(mixed(by="task", shares={"find": 0.5, "hear": 0.5})) == weights


def test_a_temperature_makes_shares_more_even():
    natural, two, uniform = (mixed(temperature=t) for t in (1.0, 2.0, math.inf))
    assert {row.weight for row in natural[:40]} == {1.0}
    shares = np.sqrt([30, 10]) / np.sqrt([30, 10]).sum()
    assert two[0].weight == pytest.approx(shares[0] * 40 / 30, rel=1e-8)
    assert two[39].weight == pytest.approx(shares[1] * 40 / 10, rel=1e-8)
    assert weights_of(uniform) == weights_of(mixed(shares={"radio": 0.5, "read": 0.5}))


def test_the_table_of_the_documentation_is_right():
    page = (ROOT / "docs" / "curation.md").read_text()
    lines = page.partition("| temperature | share of 90,000 |")[2].split("\n")[2:]
    counts = {"90,000": 90_000, "9,000": 9_000, "1,000": 1_000}
    for line, temperature in zip(lines, (1.0, 1.43, 3.33, math.inf), strict=False):
        options = {"shares": {}, "kind": "source", "where": ""}
        made = list(shares_of(counts, temperature=temperature, **options).values())
        cells = [f"{temperature:g}", *(f"{share:.1%}" for share in made), f"{made[2] * 100:.3g}"]
        assert line == f"| {' | '.join(cells)} |"


def test_rows_of_a_source_get_its_task_in_every_split():
    out = mixed(tasks={"radio": "translation"}, by="task", temperature=math.inf)
    tasks = {row.id: row.task for row in out}
    assert tasks["radio/0"] == tasks["radio/test"] == "translation"
    assert (tasks["read/0"], tasks["texts/1"]) == ("hear", None)
    assert out[0].history == ("mix: the task translation",)
    assert weights_of(out)["read/0"] == 2.0  # Of the new tasks.
    only = mixed(tasks={"radio": "translation"})
    assert {row.weight for row in only} == {None}


def test_the_report_counts_rows_and_shares():
    stage = Mix(MixConfig(shares={"radio": 0.25, "read": 0.75}))
    report = stage.report(ROWS, stage.apply(ROWS))
    assert report is not None
    assert report.table == (
        ("radio", "30", "0.00", "75.0%", "25.0%", "0.333"),
        ("read", "10", "0.00", "25.0%", "75.0%", "3"),
    )


def test_weights_are_in_tables_of_rows(tmp_path):
    rows = mixed(temperature=3.0)
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows
    for bad in ("0", "-1", "true", '"2"'):
        (tmp_path / "bad.jsonl").write_text(f'{{"id": "a", "weight": {bad}}}\n')
        with pytest.raises(MrlError, match="weight"):
            read_rows(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "stages.mix: has no shares, temperature or tasks"),
        ({"shares": {"radio": 0.5, "read": 0.4}}, "stages.mix.shares: the shares sum to 0.9"),
        ({"shares": {"radio": 1.5, "read": -0.5}}, "the share of 'radio' is 1.5, expected above"),
        ({"shares": {"radio": 1.0, "read": 0.0}}, "the share of 'read' is 0, expected above 0"),
        ({"shares": {"radio": math.nan}}, "'radio' is NaN, expected a number"),
        ({"temperature": 0.0}, "temperature is 0.0, expected above 0"),
        ({"temperature": 2.0, "shares": {"radio": 1.0}}, "has shares and a temperature"),
        ({"tasks": {"radio": " "}}, "stages.mix.tasks.radio: is empty"),
        ({"by": "language", "temperature": 2.0}, "by is 'language', expected 'source' or 'task'"),
    ],
)
def test_a_mix_without_sense_is_refused(fields, message):
    with pytest.raises(MrlError, match=message):
        MixConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shares": {"radio": 1.0}}, "no share for the source 'read', of 10 examples"),
        (
            {"shares": {"radio": 0.2, "read": 0.3, "texts": 0.5}},
            "there is a share for 'texts', and no example of that source",
        ),
        ({"by": "task", "shares": {"fin": 1.0}}, "for 'fin', .* Did you mean find"),
        ({"by": "task", "temperature": 0.01}, "is 0.01, which leaves nothing of the task 'hear'"),
    ],
)
def test_shares_that_cannot_be_had_are_refused(fields, message):
    with pytest.raises(MrlError, match=message) as error:
        mixed(**fields)
    assert str(error.value).startswith("stages.mix")


def test_rows_that_cannot_be_mixed_are_refused():
    bare = [dataclasses.replace(row, task=None) for row in ROWS]
    with pytest.raises(MrlError, match=r"40 rows have no task, .* Set stages\.mix\.tasks\.SOURCE"):
        mixed(bare, by="task", temperature=2.0)
    with pytest.raises(MrlError, match="no row of the split 'train' has speech"):
        mixed(ROWS[40:], temperature=2.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two manifests: 24 clips of two speakers each way, and 8 of others."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    for name, count in (("radio", 24), ("read", 8)):
        lines = []
        for i in range(count):
            wave = 0.1 * draw.standard_normal(RATE // 5 + 300 * i)
            soundfile.write(folder / f"{name}{i}.wav", wave, RATE)
            fields = {"id": i, "audio": f"{name}{i}.wav", "text": f"{name} {i}"}
            lines.append(json.dumps(fields | {"split": "dev" if i % 8 == 7 else "train"}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "texts.txt").write_text("one\ntwo\n")
    return folder


def config_of(data, *stages, name="mix"):
    sources = [
        ManifestSource(name=name, path=str(data / f"{name}.jsonl")) for name in ("radio", "read")
    ]
    texts = TextSource(name="texts", path=str(data / "texts.txt"))
    return CurationConfig(name=name, sources=(*sources, texts), stages=stages)


def test_shares_survive_the_build_and_reach_the_batches(data, tmp_path):
    stage = MixConfig(shares={"radio": 0.4, "read": 0.6}, tasks={"radio": "find", "read": "hear"})
    folder = tmp_path / "run"
    curate(config_of(data, stage), folder, log=lambda line: None)
    card = (folder / "card.md").read_text()
    assert "| radio | 21 | 0.00 | 75.0% | 40.0% | 0.533 |" in card
    assert "| read | 7 | 0.00 | 25.0% | 60.0% | 2.4 |" in card
    assert {row.weight for row in read_manifest(folder / "manifest-dev.jsonl")} == {1.0}
    build_dataset(folder / "manifest-train.jsonl", tmp_path / "built")
    examples = open_dataset(tmp_path / "built")
    assert set(examples.tasks) == {"find", "hear"}
    assert examples.weights is not None
    numbers = np.asarray([task == "hear" for task in examples.tasks], np.int64)
    for one_task in (False, True):
        sizes = {"batch_size": 4, "one_task": one_task}
        draws = draws_of(examples.tasks, examples.weights, TaskMixConfig(), **sizes)
        assert draws is not None
        groups = numbers if one_task else np.zeros_like(numbers)
        sizes = {"batch_size": 4, "num_buckets": 2, "seed": 0}
        plan = BatchPlan(examples.num_samples, groups, draws=draws, **sizes)
        drawn = np.concatenate([plan(step)[1] for step in range(10 * plan.batches_per_epoch)])
        # 28 examples an epoch; batches of one task are rounded up or down.
        assert abs(numbers[drawn].mean() - 0.6) <= (4 / 28 if one_task else 1 / 28)
    # A curation of that manifest keeps the weights.
    again = ManifestSource(name="again", path=str(folder / "manifest-train.jsonl"))
    curate(CurationConfig(sources=(again,)), tmp_path / "again", log=lambda line: None)
    kept = read_manifest(tmp_path / "again" / "manifest-train.jsonl")
    assert [one.weight for one in kept] == examples.weights.tolist()


def test_a_mix_is_refused_by_its_config_before_anything_runs(data, tmp_path):
    cases: list[Any] = [{"shares": {"radio": 0.5, "reed": 0.5}}, {"tasks": {"reed": "x"}}]
    for fields in cases:
        with pytest.raises(MrlError, match=r"no source 'reed'\. Did you mean read"):
            config_of(data, MixConfig(**fields))
    config_of(data, MixConfig(by="task", shares={"reed": 1.0}))  # A task of some row, perhaps.
    config = config_of(data, MixConfig(temperature=1.0))
    changed = override_curation(config, ["stages.mix.temperature=5"])
    assert changed.stages == (MixConfig(temperature=5.0),)
    changed = override_curation(
        config,
        [
            "stages.mix.temperature=none",
            "stages.mix.shares.radio=0.25",
            "stages.mix.shares.read=0.75",
        ],
    )
    assert changed.stages == (MixConfig(shares={"radio": 0.25, "read": 0.75}),)
    with pytest.raises(MrlError, match="no source 'rad'"):
        override_curation(config, ["stages.mix.tasks.rad=x"])


def test_splits_are_given_before_they_are_gone_by():
    mix, split = MixConfig(temperature=2.0), SplitConfig()
    make_stages([split, mix], seed=0)
    with pytest.raises(MrlError, match=r"stage 'split': comes after 'mix', .* Put 'split' before"):
        make_stages([mix, split], seed=0)


def test_a_bad_mix_ends_the_command_in_one_line(data, tmp_path, capsys):
    from mrl_jax.curation import command

    config = tmp_path / "config.py"
    config.write_text(
        "from mrl_jax.curation.config import CurationConfig\n"
        "from mrl_jax.curation.mix import MixConfig\n"
        "from mrl_jax.curation.sources import ManifestSource\n"
        "def get_config():\n"
        f"    source = ManifestSource(name='read', path={str(data / 'read.jsonl')!r})\n"
        "    return CurationConfig(sources=(source,), stages=(MixConfig(temperature=2.0),))\n"
    )
    for field in ("temperature=-1", "tasks.reed=x", "shares.read=0.5"):
        argv = ["--config", str(config), "--workdir", str(tmp_path / "w"), f"stages.mix.{field}"]
        assert run_command(lambda argv=argv: command.main(argv, prog="curate")) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert not (tmp_path / "w").exists()
