"""Leakage: training rows that a held-out split has as well."""

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest
import soundfile
from curation_clips import write_clips
from repository import SHARED_DATA

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.fingerprint import FingerprintConfig
from mrl_jax.curation.leakage import Leakage, LeakageConfig
from mrl_jax.curation.near_texts import NearConfig
from mrl_jax.curation.registry import make_stage
from mrl_jax.curation.rows import Row

NEAR = NearConfig(threshold=0.7)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def run(rows: list[Row], **config) -> dict[str, str]:
    """The reasons of the rows that are dropped, without what all have in common."""
    after = Leakage(LeakageConfig(**config)).apply(rows)
    assert [row.id for row in after] == [row.id for row in rows]
    tail = ", expected none of a held-out row"
    return {
        row.id: row.dropped.removeprefix("leakage: ").removesuffix(tail)
        for row in after
        if row.dropped is not None
    }


def rows_of(*texts: str, split: str = "train", field: str = "text") -> list[Row]:
    plain = [Row(id=f"{split}{i}", split=split) for i in range(len(texts))]
    return [dataclasses.replace(row, **{field: t}) for row, t in zip(plain, texts, strict=True)]


def test_equal_texts_leak_whatever_their_case_and_marks():
    rows = rows_of("Il est là.", "Ailleurs", "IL EST LA") + rows_of("il est là !", split="test")
    assert run(rows, near=None) == {"train0": "the text is that of 'test0' in test"}


def test_composed_and_decomposed_letters_are_the_same():
    rows = rows_of("cafe\u0301") + rows_of("Café", split="dev")
    assert run(rows) == {"train0": "the text is that of 'dev0' in dev"}


def test_near_texts_leak_unless_they_may():
    said = "we will meet at the market on monday morning"
    rows = rows_of(f"{said}s", "an entirely different sentence") + rows_of(said, split="test")
    assert run(rows, near=NEAR) == {"train0": "the text is near that of 'test0' in test"}
    assert run(rows, near=None) == {}


def test_near_texts_of_several_rows_all_leak():
    said = "we will meet at the market on monday morning"
    rows = rows_of(f"{said}s", f"{said}s!", said[:-1]) + rows_of(said, said, split="test")
    assert set(run(rows, near=NEAR)) == {"train0", "train1", "train2"}


def test_a_field_is_compared_with_itself_alone():
    rows = rows_of("same words") + rows_of("same words", split="dev", field="transcript")
    assert run(rows) == {}
    rows += rows_of("Same words", field="transcript", split="train")[:0]
    rows += [Row(id="t", split="train", transcript="Same words")]
    assert run(rows) == {"t": "the transcript is that of 'dev0' in dev"}
    assert run(rows, texts=("text",)) == {}


def test_recordings_leak_by_samples_and_by_their_parts(clips):
    rows = [
        Row(id="copy", split="train", audio=clips["b.flac"]),
        Row(id="part", split="train", audio=clips["longer.wav"], start=0.5, end=1.5),
        Row(id="apart", split="train", audio=clips["longer.wav"], start=1.0, end=2.0),
        Row(id="new", split="train", audio=clips["silent3.wav"]),
        Row(id="a", split="test", audio=clips["a.wav"]),
        Row(id="long", split="test", audio=clips["longer.wav"], start=0.0, end=0.9),
    ]
    wanted = {
        "copy": "the clip is that of 'a' in test",
        "part": "the recording is part of 'long' in test",
    }
    assert run(rows) == wanted
    assert run(rows, clips="none") == {}
    assert set(run(rows, clips="files")) == {"part"}


def test_recordings_leak_by_their_sound(tmp_path):
    rate = 16_000
    speech, other = (band_noise(seed, 4 * rate) for seed in range(2))
    files = {"a.wav": speech, "b.wav": other, "copy.ogg": 0.4 * speech, "cut.wav": speech[6000:]}
    for name, samples in files.items():
        soundfile.write(tmp_path / name, samples, rate)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    held_out = [
        Row(id="a", split="test", audio=str(tmp_path / "a.wav")),
        Row(id="text alone", split="test", text="none"),
    ]
    names = ("copy.ogg", "cut.wav", "b.wav", "broken.wav")
    rows = [Row(id=name, split="train", audio=str(tmp_path / name)) for name in names] + held_out
    sound = "the sound is that of 'a' in test"
    assert run(rows, clips="sound") == {"copy.ogg": sound, "cut.wav": sound}
    assert run(rows) == {}
    strict = FingerprintConfig(bit_errors=0.0)
    assert "copy.ogg" not in run(rows, clips="sound", fingerprint=strict)
    after = Leakage(LeakageConfig(clips="sound")).apply(rows)
    assert after[0].measured == {"leakage.by": "sound", "leakage.of": "a"}
    assert run(rows[2:], clips="sound") == {}


def band_noise(seed: int, samples: int) -> np.ndarray:
    """Noise whose loudness rises and falls: unlike any other seed's in every band."""
    rng = np.random.default_rng(seed)
    loudness = 1.1 + np.sin(np.arange(samples) * rng.uniform(0.001, 0.002))
    return 0.1 * loudness * rng.standard_normal(samples)


def test_held_out_rows_and_other_splits_stay():
    rows = rows_of("one") + rows_of("one", "one", split="dev") + rows_of("one", split="spare")
    assert set(run(rows)) == {"train0"}
    assert set(run(rows, train="spare")) == {"spare0"}
    assert run(rows, held_out=("spare",)).keys() == {"train0"}


def test_the_report_counts_by_field_and_split():
    rows = (
        rows_of("one", "two", "three") + rows_of("one", split="dev") + rows_of("two", split="test")
    )
    stage: Any = make_stage(LeakageConfig())
    after = stage.apply(rows)
    report = stage.report(rows, after)
    assert report is not None
    assert report.table == (("text", "dev", "1"), ("text", "test", "1"))
    assert after[0].measured == {"leakage.by": "text", "leakage.of": "dev0"}
    assert set(after[0].measured) == set(stage.measures)


def test_every_leak_of_mboshi_is_found():
    table = SHARED_DATA / "mboshi" / "table.jsonl"
    if not table.is_file():
        pytest.skip("the data of Mboshi are not here")
    raw = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    rows = [
        Row(id=r["id"], split=r["split"], text=r["text"], transcript=r["transcript"]) for r in raw
    ]

    def bare(text: str) -> str:
        return " ".join(re.sub(r"[^\w'\u2019]+", " ", text.lower()).split()).strip("'\u2019 ")

    said = {bare(row.text or "") for row in rows if row.split == "dev"}
    leaks = {row.id for row in rows if row.split == "train" and bare(row.text or "") in said}
    assert len(leaks) == 74
    assert set(run(rows, near=None)) == leaks
    assert leaks < set(run(rows, near=NearConfig(threshold=0.65)))


def test_absent_splits_are_refused_with_those_that_there_are():
    rows = [*rows_of("one", "two"), Row(id="x", text="three")]
    with pytest.raises(MrlError, match=r"no row is in the split validation or dev or test; the "):
        Leakage(LeakageConfig()).apply(rows)
    with pytest.raises(MrlError, match=r"split fit; the splits are: none \(1\), train \(2\)"):
        Leakage(LeakageConfig(train="fit", held_out=("train",))).apply(rows)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"held_out": ()}, "held_out is empty"),
        ({"held_out": ("train",)}, "'train' is both train and held out"),
        ({"texts": (), "clips": "none"}, "compares nothing"),
        ({"texts": ("label",)}, "texts is a tuple whose item 0 is 'label'"),
    ],
)
def test_impossible_settings_are_refused(config, problem):
    with pytest.raises(MrlError, match=problem):
        LeakageConfig(**config)
