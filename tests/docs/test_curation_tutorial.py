"""The tutorial of docs/curation_tutorial.md, word by word, on an hour's worth of minutes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from repository import ROOT

from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
from mrl_jax.demo.grammar import phrases
from mrl_jax.demo.voices import TEST_VOICES, Utterance, speak

pytest.importorskip("espeakng_loader")
pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "curation_tutorial.md"
SENTENCES, CHAPTERS, RATE = 20, 3, 16_000


def make_readings(folder: Path) -> set[tuple[str, str]]:
    """Three recordings of twenty sentences, of which one of each was read differently.

    Returns:
        the sentences that were not read, with their translations.
    """
    chosen = phrases()[:: len(phrases()) // (SENTENCES * CHAPTERS)][: SENTENCES * CHAPTERS]
    said = [
        Utterance(phrase.wolof, TEST_VOICES[n // SENTENCES], folder / f"{n}.flac")
        for n, phrase in enumerate(chosen)
    ]
    speak(said)
    rows, wrong = [], set()
    for chapter in range(CHAPTERS):
        numbers = range(chapter * SENTENCES, (chapter + 1) * SENTENCES)
        pause = np.zeros(RATE // 2, np.float32)
        parts = [soundfile.read(said[n].path, dtype="float32")[0] for n in numbers]
        name = f"chapter{chapter}.flac"
        joined = [x for part in parts for x in (part, pause)]
        noise = np.random.default_rng(chapter).normal(size=sum(map(len, joined)), scale=1e-3)
        soundfile.write(folder / name, np.concatenate(joined) + noise, RATE)
        lines = [chosen[n].wolof for n in numbers]
        lines[7] = chosen[(numbers[0] + 33) % len(chosen)].wolof
        french = [chosen[n].french for n in numbers]
        wrong.add((lines[7], french[7]))
        row = {"id": f"c{chapter}", "audio": name, "speaker": f"s{chapter}"}
        rows.append({**row, "transcript": "\n".join(lines), "text": "\n".join(french)})
    (folder / "readings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return wrong


def make_question() -> str:
    """question.wav, of which the model has heard nothing; its answer."""
    tables = {}
    for name in ("queries", "corpus", "qrels"):
        lines = Path(f"curated/set-test/{name}.jsonl").read_text().splitlines()
        tables[name] = [json.loads(line) for line in lines]
    query, judged = tables["queries"][0], tables["qrels"][0]
    assert judged["query-id"] == query["_id"]
    samples, rate = soundfile.read(Path("curated/set-test") / query["audio"])
    soundfile.write("question.wav", samples, rate)
    return next(row["text"] for row in tables["corpus"] if row["_id"] == judged["corpus-id"])


def commands() -> list[list[str]]:
    lines = PAGE.read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith("mrl-jax ")]


def test_the_tutorial_gives_a_model_that_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong, answer = make_readings(tmp_path), ""
    (config,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    Path("curate.py").write_text(config)
    towers = str(ROOT / "mrl_jax" / "demo" / "towers_hf")
    outputs = {}
    for words in commands():
        if words[1] == "serve":  # See tests/serving.
            continue
        if words[1] == "search":
            answer = make_question()
        argv = [word.replace("DEMO_TOWERS", towers) for word in words[1:]]
        capsys.readouterr()
        assert run_command(main, argv) == 0, capsys.readouterr().err
        outputs[words[1]] = capsys.readouterr().out
    rows = [json.loads(line) for line in Path("curated/rows.jsonl").read_text().splitlines()]
    kept = {(row["transcript"], row["text"]) for row in rows if not row.get("dropped")}
    assert not kept & wrong
    assert len(kept) >= 0.85 * (SENTENCES * CHAPTERS - CHAPTERS)
    results = [json.loads(line) for line in Path("report/results.jsonl").read_text().splitlines()]
    scores = {(row["metric"], row["dim"]): row["value"] for row in results}
    assert scores["ndcg@10", 96] > 0.7
    first = outputs["search"].splitlines()[0]
    assert first.split(None, 1)[0] == "1"
    assert answer in first
