"""Stage `synthesize`: translations, speech by espeak-ng, a program and a function."""

import concurrent.futures
import dataclasses
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_nllb import make_nllb

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.pipeline import run_stage
from mrl_jax.curation.rows import Row
from mrl_jax.curation.shards import Workers
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.curation.synthesize import Synthesize, SynthesizeConfig
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.inference.translation import Translator

SENTENCE = Row(id="s1", transcript="ba ce", language="wol")
TONE = (
    "import sys, wave\n"
    "text, out = sys.argv[1:]\n"
    "if 'bad' in text: print('cannot say that', file=sys.stderr); sys.exit(3)\n"
    "if 'none' in text: sys.exit(0)\n"
    "file = wave.open(out, 'wb'); file.setnchannels(1); file.setsampwidth(2)\n"
    "file.setframerate(8000)\n"
    "file.writeframes(bytes([0, 0, 0, 32] * (2000 * len(text)))); file.close()\n"
)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return make_nllb(tmp_path_factory.mktemp("nllb"))[2]


def command(tmp_path):
    script = tmp_path / "say.py"
    script.write_text(TONE)
    return (sys.executable, str(script), "{text}", "{out}")


def buzz(text):
    """A function that speaks: a second of noise for each word."""
    words = len(text.split())
    return 0.1 * np.random.default_rng(words).standard_normal(4000 * words), 4000


def test_a_missing_text_is_translated(nllb):
    config = SynthesizeConfig(
        translator=str(nllb), source="wol_Latn", target="fra_Latn", max_tokens=20
    )
    stage = Synthesize(config)
    (row,) = stage.apply(SENTENCE)
    (wanted,) = Translator(config.translation).translate(["ba ce"])
    assert wanted.strip()
    assert (row.text, row.text_language, row.synthetic) == (wanted, "fra_Latn", "text")
    assert row.history == ("synthesize: text translated to fra_Latn",)
    given = dataclasses.replace(SENTENCE, text="du pain")
    for other in (given, Row(id="t", text="du pain"), Row(id="a", audio="a.wav")):
        assert stage.apply(other) == (other,)
    assert len(stage.extra_inputs) == 2
    with pytest.raises(BrokenRow, match="cannot translate"):  # The model has 64 positions.
        Synthesize(dataclasses.replace(config, max_tokens=200)).apply(SENTENCE)


def test_missing_speech_is_spoken_by_espeak(tmp_path):
    pytest.importorskip("espeakng_loader")
    config = SynthesizeConfig(voices=("fr", "fr+f1"), folder=str(tmp_path / "a"))
    rows = [Row(id=f"r{i}", transcript="bonjour le monde") for i in range(6)]
    out = [Synthesize(config).apply(row)[0] for row in rows]
    assert {row.speaker for row in out} == {"espeak-fr", "espeak-fr+f1"}
    assert {row.synthetic for row in out} == {"audio"}
    # Two voices, two recordings; a second run makes the same.
    files = {row.audio for row in out}
    assert len(files) == 2
    clips = [load_clip(str(path), 16_000) for path in sorted(map(str, files))]
    assert out[0].measured["source.seconds"] == pytest.approx(
        len(load_clip(str(out[0].audio), 16_000)) / 16_000, abs=1e-3
    )
    again = Synthesize(dataclasses.replace(config, folder=str(tmp_path / "b")))
    other = [str(again.apply(row)[0].audio) for row in rows]
    assert clips[0].shape != clips[1].shape or np.abs(clips[0] - clips[1]).max() > 0.01
    for one, two in zip(out, other, strict=True):
        np.testing.assert_array_equal(load_clip(str(one.audio), 16_000), load_clip(two, 16_000))
    with pytest.raises(BrokenRow, match=r"makes no speech of '\.\.\.'"):
        Synthesize(config).apply(Row(id="x", transcript="..."))


def test_a_program_gets_the_text_as_one_argument(tmp_path):
    config = SynthesizeConfig(command=command(tmp_path), folder=str(tmp_path / "audio"))
    stage = pickle.loads(pickle.dumps(Synthesize(config)))
    (row,) = stage.apply(Row(id="r", transcript="a; rm -rf $HOME"))
    assert row.measured["source.seconds"] == pytest.approx(15 * 4000 / 8000)
    assert row.synthetic == "audio"
    (dash,) = stage.apply(Row(id="r", transcript="-h"))
    assert dash.measured["source.seconds"] == pytest.approx(3 * 4000 / 8000)
    with pytest.raises(BrokenRow, match=r"ended with status 3 \(cannot say that\) for 'bad'"):
        stage.apply(Row(id="b", transcript="bad"))
    with pytest.raises(BrokenRow, match="wrote no file for 'none'"):
        stage.apply(Row(id="n", transcript="none"))
    assert len(list((tmp_path / "audio").iterdir())) == 2


def test_a_function_speaks_the_text_where_asked(tmp_path):
    config = SynthesizeConfig(spoken="text", folder=str(tmp_path))
    stage = Synthesize(config, function=buzz)
    row = Row(id="t", text="un deux trois", text_language="fra")
    (out,) = stage.apply(row)
    assert (out.transcript, out.language, out.speaker) == ("un deux trois", "fra", "buzz")
    assert out.measured["source.seconds"] == pytest.approx(3)
    assert stage.apply(SENTENCE) == (SENTENCE,)
    silent = Synthesize(config, function=lambda text: (np.zeros(0), 8000))
    with pytest.raises(BrokenRow, match="made no samples of 'vide'"):
        silent.apply(Row(id="e", text="vide"))


def test_both_are_marked_and_counted(nllb, tmp_path):
    config = SynthesizeConfig(
        translator=str(nllb),
        source="wol_Latn",
        target="fra_Latn",
        max_tokens=20,
        command=command(tmp_path),
        folder=str(tmp_path / "audio"),
    )
    stage = Synthesize(config)
    rows = [SENTENCE, Row(id="s2", transcript="di", text="deux"), Row(id="b", transcript="bad")]
    after, result = run_stage(
        config,
        stage,
        rows,
        number=1,
        folder=tmp_path / "stages",
        workers=Workers(1),
        log=lambda line: None,
    )
    assert [row.synthetic for row in after][:2] == ["audio+text", "audio"]
    assert after[2].dropped is not None
    assert result.report is not None
    assert result.report.table == (("text", "1"), ("audio", "2"))
    assert stage.is_intact(after)
    Path(str(after[0].audio)).unlink()
    assert not stage.is_intact(after)


def test_what_is_not_there_is_refused_before_anything_runs(nllb, tmp_path):
    folder = str(tmp_path)
    for config, message in (
        (SynthesizeConfig(), "fills in nothing"),
        (
            SynthesizeConfig(translator=folder, source="wol_Latn", target="fra_Latn"),
            "is no folder of CTranslate2's",
        ),
        (
            SynthesizeConfig(translator=str(nllb), source="wol_Latn", target="xxx_Latn"),
            "does not know the language 'xxx_Latn'",
        ),
        (SynthesizeConfig(voices=("xx",), folder=folder), "espeak-ng has no voice xx"),
        (
            SynthesizeConfig(command=("no-such-program", "{text}", "{out}"), folder=folder),
            "there is no program 'no-such-program'",
        ),
        (SynthesizeConfig(command=("sh", "{text}"), folder=folder), "no argument with {out}"),
    ):
        with pytest.raises(MrlError, match=message):
            Synthesize(config)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"voices": ("fr",)}, r"stages\.synthesize\.folder: is empty"),
        ({"voices": ("fr",), "command": ("a",), "folder": folder}, "are both set"),
        ({"translator": str(nllb)}, "source or target is empty"),
    )
    for fields, message in wrong:
        with pytest.raises(MrlError, match=message):
            SynthesizeConfig(**fields)


def test_two_processes_may_speak_one_text_at_once(tmp_path, monkeypatch):
    stage = Synthesize(SynthesizeConfig(folder=str(tmp_path)), function=buzz)
    rows = [Row(id=name, transcript="un deux") for name in "ab"]
    write, both = Path.write_bytes, threading.Barrier(2)

    def written(path, data):
        count = write(path, data)
        both.wait(10)
        return count

    monkeypatch.setattr(Path, "write_bytes", written)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        out = [after for (after,) in pool.map(stage.apply, rows)]
    assert [path.name for path in tmp_path.iterdir()] == [Path(str(out[0].audio)).name]
    assert out[0].audio == out[1].audio
