"""Stages in a row: what is dropped stays, what is done is not done again."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation import registry
from mrl_jax.curation.pipeline import make_stages, put_back, run_stage
from mrl_jax.curation.rows import Row, read_rows, rule_of, write_rows
from mrl_jax.curation.shards import open_workers
from mrl_jax.curation.stage import BrokenRow, RowStage, StageConfig, TableStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthConfig(StageConfig):
    name: str = "length"
    shortest: int = 2


class Length(RowStage):
    """Drops short texts, cannot read "?", and makes two rows of a text with a comma."""

    measures = ("length.letters",)

    def __init__(self, config: LengthConfig):
        self.name, self.shortest = config.name, config.shortest

    def apply(self, row: Row) -> Sequence[Row]:
        assert row.text is not None
        if row.text == "?":
            raise BrokenRow("cannot be read", where=row.id)
        if "," in row.text:
            parts = enumerate(row.text.split(","))
            halves = [dataclasses.replace(row, id=f"{row.id}-{i}", text=t) for i, t in parts]
            return [one for half in halves for one in self.apply(half)]
        letters = len(row.text)
        row = row.with_measured(self.name, letters=letters)
        if letters < self.shortest:
            problem = f"{self.name}.letters is {letters}, expected {self.shortest} or more"
            return [row.drop(self.name, problem)]
        return [row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongestConfig(StageConfig):
    name: str = "longest"


class Longest(TableStage):
    needs = ("length.letters",)

    def __init__(self, config: LongestConfig):
        self.name = config.name

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        longest = max(rows, key=lambda row: row.measured["length.letters"])
        return [row.note(self.name, "the longest") if row is longest else row for row in rows]


class Loaded(RowStage):
    """Measures what its model's file holds, which it reads once."""

    name = "loaded"

    def __init__(self, path: str):
        self.extra_inputs = (path,)

    @functools.cached_property
    def _model(self) -> str:
        return Path(self.extra_inputs[0]).read_text()

    def apply(self, row: Row) -> Sequence[Row]:
        return [row.with_measured(self.name, model=self._model)]


@pytest.fixture(autouse=True)
def _stages(monkeypatch):
    monkeypatch.setitem(registry.STAGES, "length", (LengthConfig, Length))
    monkeypatch.setitem(registry.STAGES, "longest", (LongestConfig, Longest))


TEXTS = {"a": "tree", "b": "x", "c": "one,two", "d": "?", "e": "house"}
ROWS = [Row(id=name, text=text) for name, text in TEXTS.items()]


def run(configs, rows, folder, log=lambda line: None) -> tuple[list[Row], list]:
    results = []
    with open_workers(1) as workers:
        for number, (config, stage) in enumerate(make_stages(configs, 0)):
            rows, result = run_stage(
                config, stage, rows, number=number, folder=folder, workers=workers, log=log
            )
            results.append(result)
    return rows, results


def test_dropped_rows_stay_in_place_and_later_stages_do_not_see_them(tmp_path):
    rows, results = run([LengthConfig(), LongestConfig()], ROWS, tmp_path)
    assert [row.id for row in rows] == ["a", "b", "c-0", "c-1", "d", "e"]
    assert {row.id: row.dropped for row in rows if row.dropped} == {
        "b": "length: length.letters is 1, expected 2 or more",
        "d": "length: cannot be read",
    }
    assert [row.id for row in rows if row.history] == ["e"]
    assert results[0].dropped == {
        "length: length.letters, expected 2 or more": (1, 0.0),
        "length: cannot be read": (1, 0.0),
    }


def test_a_stage_runs_again_where_its_config_or_input_changed_alone(tmp_path):
    _, first = run([LengthConfig(), LongestConfig()], ROWS, tmp_path)
    _, again = run([LengthConfig(), LongestConfig()], ROWS, tmp_path)
    _, other = run([LengthConfig(shortest=5), LongestConfig()], ROWS, tmp_path)
    ran = [[result.ran for result in results] for results in (first, again, other)]
    assert ran == [[True, True], [False, False], [True, True]]


def test_a_damaged_stage_is_made_again(tmp_path):
    wanted, _ = run([LengthConfig()], ROWS, tmp_path)
    [path] = Path(tmp_path).glob("*/rows.jsonl")
    path.write_text(path.read_text()[:40])
    rows, results = run([LengthConfig()], ROWS, tmp_path)
    assert rows == wanted
    assert results[0].ran


def test_finished_shards_are_taken_as_they_are(tmp_path):
    wanted, _ = run([LengthConfig()], ROWS, tmp_path / "whole")
    [made] = (tmp_path / "whole").iterdir()
    parts = tmp_path / "resumed" / made.name / "parts"
    parts.mkdir(parents=True)
    write_rows(parts / "00002.jsonl", [Row(id="taken", text="shard")])
    rows, _ = run([LengthConfig()], ROWS, tmp_path / "resumed")
    assert [row.id for row in rows] == ["a", "b", "taken", "d", "e"]
    assert [row.id for row in wanted] == ["a", "b", "c-0", "c-1", "d", "e"]


def test_a_key_that_nobody_measures_is_refused(tmp_path):
    with pytest.raises(MrlError, match=r"stage 'longest': reads 'length.letters', which no stage"):
        make_stages([LongestConfig()], 0)


def test_no_row_left_names_the_rule(tmp_path):
    with pytest.raises(MrlError, match=r"no row is left of 1: length: length.letters, expected 9"):
        run([LengthConfig(shortest=9)], ROWS[:1], tmp_path)


def test_a_row_that_is_left_out_is_refused():
    kept, gone = Row(id="a"), Row(id="b").drop("x", "y")
    assert put_back([gone, kept], [kept], "s") == [gone, kept]
    with pytest.raises(MrlError, match="left out the row 'a'"):
        put_back([gone, kept], [], "s")


def test_rules_leave_numbers_out():
    assert rule_of("filter: a.b is 3.1, expected 5 or more") == "filter: a.b, expected 5 or more"
    assert rule_of("probe: is silent") == "probe: is silent"


def test_rows_are_equal_on_disk_and_in_memory(tmp_path):
    row = Row(id="å", audio="x.wav", start=1 / 3, end=2.0).with_measured("s", x=1 / 7, n=3, t="w")
    row = row.note("s", "a line").drop("s", "two\nlines")
    write_rows(tmp_path / "rows.jsonl", [row])
    assert read_rows(tmp_path / "rows.jsonl") == [row]
    assert row.start == 0.333333
    assert row.seconds == pytest.approx(1.666667)
    assert row.dropped == "s: two lines"
    with pytest.raises(MrlError, match=r"s\.x is nan"):
        row.with_measured("s", x=float("nan"))


def test_another_version_of_a_package_runs_a_stage_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Length, "packages", ("fonttools",), raising=False)
    _, first = run([LengthConfig()], ROWS, tmp_path)
    _, same = run([LengthConfig()], ROWS, tmp_path)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    _, other = run([LengthConfig()], ROWS, tmp_path)
    assert [results[0].ran for results in (first, same, other)] == [True, False, True]


def test_another_version_of_its_code_runs_a_stage_again(tmp_path, monkeypatch):
    _, first = run([LengthConfig()], ROWS, tmp_path)
    monkeypatch.setattr(Length, "version", 1)
    _, other = run([LengthConfig()], ROWS, tmp_path)
    _, same = run([LengthConfig()], ROWS, tmp_path)
    assert [results[0].ran for results in (first, other, same)] == [True, True, False]


def test_a_changed_model_is_loaded_again_in_the_same_process(tmp_path):
    (tmp_path / "model").write_text("1")
    for number in ("1", "2"):
        (tmp_path / "model").write_text(number)
        stage = Loaded(str(tmp_path / "model"))
        with open_workers(1) as workers:
            rows, _ = run_stage(
                LongestConfig(name="loaded"),
                stage,
                ROWS[:2],
                number=0,
                folder=tmp_path / "stages",
                workers=workers,
                log=lambda line: None,
            )
        assert {row.measured["loaded.model"] for row in rows} == {number}
