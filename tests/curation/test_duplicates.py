"""Duplicates: clips that are there twice, and texts that say the same."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from curation_clips import write_clips

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.duplicates import Duplicates, DuplicatesConfig, cosine_pairs
from mrl_jax.curation.near_texts import NearConfig
from mrl_jax.curation.registry import make_stage
from mrl_jax.curation.rows import Row
from mrl_jax.curation.same_clip import by_recording, clip_digests, overlaps


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def run(rows, **config) -> list[Row]:
    return Duplicates(DuplicatesConfig(**config)).apply(rows)


def test_a_copy_is_dropped_however_it_is_encoded(clips):
    names = ("a.wav", "other.wav", "b.flac", "longer.wav", "c.wav")
    rows = [Row(id=name, audio=clips[name], text=name) for name in names]
    dropped = {row.id: row.dropped for row in run(rows, near=None) if row.dropped}
    reason = "duplicates: the clip is that of 'a.wav', with another text, expected each clip once"
    assert dropped == {"b.flac": reason, "c.wav": reason}


def test_bytes_are_compared_on_request(clips):
    rows = [Row(id=name, audio=clips[name]) for name in ("a.wav", "b.flac", "c.wav")]
    assert [row.dropped is None for row in run(rows, clips="files")] == [True, True, False]
    assert all(row.dropped is None for row in run(rows, clips="none"))


def test_clips_that_begin_with_silence_are_compared_whole(clips):
    names = ("silent1.wav", "silent2.flac", "silent3.wav", "broken.wav", "broken.wav")
    rows = [Row(id=str(i), audio=clips[name]) for i, name in enumerate(names)]
    first, second, *others = clip_digests(rows, "samples")
    assert first == second is not None
    assert others == [None, None, None]


def test_parts_of_a_recording_are_clips_of_their_own(clips):
    def part(start, end, name="longer.wav"):
        return Row(id=f"{name}{start}{end}", audio=clips[name], start=start, end=end)

    rows = [part(0.0, 1.0), part(1.0, 2.0), Row(id="a", audio=clips["a.wav"]), part(0.0, 0.9)]
    digests = clip_digests(rows, "samples")
    assert digests[0] == digests[2] is not None
    assert digests[1] is None
    assert digests[3] is None
    assert overlaps(rows[0], rows[3])
    assert not overlaps(rows[0], rows[1])
    assert len(by_recording(rows)[clips["longer.wav"]]) == 3
    of_files = clip_digests([*rows, rows[0]], "files")
    assert of_files[0] == of_files[4]
    assert len(set(of_files)) == 4


TEXTS = ("Il fait chaud.", "il fait chaud !", "Il fait froid", "IL FAIT CHAUD", "...", "…")


def test_equal_texts_become_one_document_and_stay():
    rows = run([Row(id=f"r{i}", text=text) for i, text in enumerate(TEXTS)], near=None)
    assert [row.document_id for row in rows] == ["r0", "r0", None, "r0", None, None]
    assert all(row.dropped is None for row in rows)
    assert [row.measured.get("duplicates.rows") for row in rows] == [3, 3, 1, 3, None, None]
    assert rows[1].history == ("duplicates: document 'r0': its text says the same",)


def test_the_same_text_to_the_letter_is_one_document_already():
    rows = run([Row(id=name, text="Oui.") for name in "ab"])
    assert [row.document_id for row in rows] == [None, None]
    assert rows[0].measured["duplicates.rows"] == 2


def test_near_texts_become_one_document():
    texts = (
        "the quick brown fox jumps over the lazy dog",
        "the quick brown fox jumps over a lazy dog",
    )
    rows = [Row(id=str(i), text=text) for i, text in enumerate((*texts, "another text"))]
    near = run(rows, near=NearConfig(threshold=0.7))
    assert [row.document_id for row in near] == ["0", "0", None]
    assert near[0].measured["duplicates.near"] == near[1].measured["duplicates.near"]
    assert float(near[0].measured["duplicates.near"]) > 0.7
    assert all(row.document_id is None for row in run(rows, near=NearConfig(threshold=0.95)))


def test_documents_of_one_id_are_merged_as_a_whole():
    rows = [
        Row(id="0", text="one way to say it", document_id="d"),
        Row(id="1", text="quite another way", document_id="d"),
        Row(id="2", text="Quite another way!", document_id="e"),
        Row(id="3", text="something else", document_id="e"),
    ]
    assert [row.document_id for row in run(rows)] == ["d", "d", "d", "d"]


def test_vectors_above_a_cosine():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.triu(vectors @ vectors.T, 1)
    pairs = cosine_pairs(vectors, 0.95)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == set(
        zip(*(side.tolist() for side in np.nonzero(cosines >= 0.95)), strict=True)
    )
    assert 0 < len(pairs.first) < 3000
    assert len(cosine_pairs(vectors[:0], 0.9).first) == 0


def test_the_registry_makes_it_and_the_report_counts(clips):
    stage: Any = make_stage(DuplicatesConfig())
    before = [
        Row(id=name, audio=clips[name], text=f"Text {name[0]}") for name in ("a.wav", "c.wav")
    ]
    before += [Row(id="x", text="text a")]
    after = stage.apply(before)
    report = stage.report(before, after)
    assert report is not None
    assert report.table == (("clips dropped as copies", "1"), ("rows in a merged document", "2"))
    assert stage.apply(before) == after


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(MrlError, match=r"cosine is 2\.0, expected 0 to 1"):
        DuplicatesConfig(cosine=2.0)
    with pytest.raises(MrlError, match="clips is 'ears', expected"):
        DuplicatesConfig(clips="ears")  # pyright: ignore[reportArgumentType]
    with pytest.raises(MrlError, match="no such file"):
        Duplicates(DuplicatesConfig(model=str(tmp_path / "none")))
    config = dataclasses.replace(DuplicatesConfig(), near=NearConfig(threshold=0.5))
    assert config.near is not None
    assert config.near.threshold == 0.5


def test_long_clips_are_compared_in_parts(clips, monkeypatch):
    monkeypatch.setattr("mrl_jax.curation.same_clip._LONG", 0.3)
    names = ("a.wav", "b.flac", "longer.wav", "silent1.wav", "silent2.flac", "silent3.wav")
    rows = [
        Row(id=name, audio=clips[name], measured={"source.seconds": seconds, "source.rate": 16_000})
        for name, seconds in zip(names, (1.0, 1.0, 2.0, 1.5, 1.5, 1.5), strict=True)
    ]
    dropped = [row.id for row in Duplicates(DuplicatesConfig(near=None)).apply(rows) if row.dropped]
    assert dropped == ["b.flac", "silent2.flac"]
