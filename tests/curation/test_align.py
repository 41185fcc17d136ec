"""Stage `align` with a recogniser that knows tones: scores, sentences, and what is refused."""

import dataclasses
import pickle

import numpy as np
import pytest
import tiny_run
import tone_recogniser
from tiny_run import text_of

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.align import Align, AlignConfig, log_probs_in_windows, sentence_scores
from mrl_jax.curation.forced_alignment import align_tokens
from mrl_jax.curation.pipeline import make_stages, run_stage
from mrl_jax.curation.rows import Row
from mrl_jax.curation.shards import Workers
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.curation.transcripts import Speller, sentences_of
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import Recogniser
from mrl_jax.models.ctc import CtcVocabulary, character_vocabulary
from mrl_jax.models.text_vocabulary import text_tower_vocabulary

WORDS = ((0, 1, 2), (3, 4, 0), (2, 4), (1, 3, 0, 2), (4, 2, 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("align")
    tiny_run.make_towers(root / "towers")
    tone_recogniser.make_recogniser(root / "recogniser")
    return root


@pytest.fixture(scope="module")
def recogniser(root):
    return Recogniser(tone_recogniser.loaded(root / "recogniser"))


@pytest.fixture(scope="module")
def rows(root):
    return [
        Row(
            id=f"r{number}",
            audio=tone_recogniser.write_clip(root / f"{number}.wav", words, number),
            transcript=text_of(words),
        )
        for number, words in enumerate(WORDS)
    ]


def score_of(row):
    return float(row.measured["align.score"])


def config_of(root, **changes):
    return AlignConfig(recogniser=str(root / "recogniser"), **changes)


def test_the_log_probabilities_are_those_of_the_transcripts(recogniser):
    clips = [tone_recogniser.tones(words, 50 + n) for n, words in enumerate(WORDS)]
    scores = recogniser.log_probs(clips)
    texts = recogniser.transcribe(clips)
    # Where a tone begins, one frame or two are heard as another.
    for text, words in zip(texts, WORDS, strict=True):
        assert set(text_of(words).split()) <= set(text.split())
    for clip, own, text in zip(clips, scores, texts, strict=True):
        assert own.shape == (recogniser.config.frame_count(len(clip)), 6)
        np.testing.assert_allclose(np.exp(own).sum(axis=1), 1, atol=1e-5)
        assert recogniser.vocabulary.decode(own.argmax(axis=1)) == text


def test_a_wrong_transcript_is_dropped_by_its_score(root, rows):
    stage = Align(config_of(root))
    for number, row in enumerate(rows):
        (right,) = stage.apply(row)
        assert right.dropped is None
        assert right.measured["align.tokens"] == len(WORDS[number])
        assert score_of(right) > -2
        other = text_of(WORDS[number - 1])
        (wrong,) = stage.apply(dataclasses.replace(row, transcript=other))
        assert score_of(wrong) < -3
        assert wrong.dropped is not None
        assert wrong.dropped.startswith("align: score is -")
        (kept,) = Align(config_of(root, min_score=None)).apply(
            dataclasses.replace(row, transcript=other)
        )
        assert kept.dropped is None
        assert kept.measured == wrong.measured


def test_case_and_punctuation_do_not_count_unless_asked(root, rows):
    written = dataclasses.replace(rows[0], transcript="Ba, ce — DI!")
    assert score_of(Align(config_of(root)).apply(written)[0]) > -2
    with pytest.raises(BrokenRow, match="has no '!', ',', 'B'"):
        Align(config_of(root, plain=False)).apply(written)


def test_characters_that_are_not_known_drop_the_row_or_are_left_out(root, rows):
    strange = dataclasses.replace(rows[0], transcript="ba 7 ce di")
    with pytest.raises(BrokenRow, match="the recogniser has no '7', which the transcript has"):
        Align(config_of(root)).apply(strange)
    (row,) = Align(config_of(root, unknown="skip")).apply(strange)
    assert row.measured["align.tokens"] == 3
    with pytest.raises(BrokenRow, match="nothing that the recogniser writes"):
        Align(config_of(root, unknown="skip")).apply(dataclasses.replace(strange, transcript="7"))


def test_a_transcript_too_long_for_its_clip_is_named(root, rows):
    long = dataclasses.replace(rows[0], transcript=" ".join(["ba ce"] * 100))
    with pytest.raises(BrokenRow, match=r"of 200 tokens is too long for 1\.0 s of audio"):
        Align(config_of(root)).apply(long)


def test_a_recording_that_is_too_long_is_named(root, rows):
    with pytest.raises(BrokenRow, match=r"is longer than max_seconds, 0\.5"):
        Align(config_of(root, max_seconds=0.5)).apply(rows[0])


def test_rows_without_a_recording_or_a_transcript_pass(root, rows):
    stage = Align(config_of(root))
    for row in (
        Row(id="t", text="ba", transcript="ba"),
        dataclasses.replace(rows[0], transcript=" "),
    ):
        assert stage.apply(row) == (row,)


def test_a_long_recording_becomes_its_sentences(root):
    words = [word for part in WORDS for word in part]
    audio = tone_recogniser.write_clip(root / "long.wav", words, 9)
    text = "\n".join(f"{text_of(part).capitalize()}." for part in WORDS)
    row = Row(id="long", audio=audio, transcript=text, text="\n".join("abcde"), document_id="d")
    out = Align(config_of(root, cut="sentences", pad_seconds=0.0)).apply(row)
    assert [one.id for one in out] == [f"long-{n:04}" for n in range(1, 6)]
    assert [one.transcript for one in out] == text.splitlines()
    assert [one.text for one in out] == list("abcde")
    assert [one.document_id for one in out] == [f"d-{n}" for n in range(1, 6)]
    assert all(one.dropped is None for one in out)
    counts = np.asarray([len(part) for part in WORDS])
    stops = np.cumsum(counts)
    truth = tone_recogniser.spans(len(words))
    edges = np.stack((truth[stops - counts, 0], truth[stops - 1, 1]), axis=1)
    found = np.asarray([(one.start, one.end) for one in out])
    assert np.abs(found - edges).max() < 0.06
    # Padded, they meet in the pause at most.
    padded = Align(config_of(root, cut="sentences", pad_seconds=9.0)).apply(row)
    starts, ends = np.asarray([(one.start, one.end) for one in padded]).T
    np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-6)
    assert np.all((ends[:-1] > edges[:-1, 1]) & (starts[1:] < edges[1:, 0]))
    # The second sentence is another: it alone is dropped.
    lines = text.splitlines()
    lines[1] = "Ba fo ba."
    other = dataclasses.replace(row, transcript="\n".join(lines), text="a\nb")
    bad = Align(config_of(root, cut="sentences")).apply(other)
    assert [one.dropped is not None for one in bad] == [False, True, False, False, False]
    assert all(one.text is None for one in bad)


def test_windows_are_joined_to_the_frames_of_the_whole(recogniser):
    words = np.random.default_rng(0).integers(0, 5, 80).tolist()
    clip = tone_recogniser.tones(words, 3)
    (whole,) = recogniser.log_probs([clip])
    parts = log_probs_in_windows(recogniser, clip, 10.0)
    assert parts.shape == whole.shape
    assert (parts.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.97
    assert (np.roll(parts, 1, axis=0).argmax(axis=1) == whole.argmax(axis=1)).mean() < 0.9
    np.testing.assert_array_equal(log_probs_in_windows(recogniser, clip, 99.0), whole)


def test_a_part_of_a_recording_keeps_its_place_there(root):
    words = [word for part in WORDS for word in part]
    audio = tone_recogniser.write_clip(root / "part.wav", words, 9)
    start = float(tone_recogniser.spans(20)[3, 0]) - 0.05
    row = Row(id="part", audio=audio, start=start, transcript=". ".join(map(text_of, WORDS[1:])))
    out = Align(config_of(root, cut="sentences", pad_seconds=0.0)).apply(row)
    assert len(out) == 4
    assert out[0].start == pytest.approx(start + 0.05, abs=0.06)


def test_the_pipeline_drops_what_cannot_be_aligned_and_goes_on(root, rows, tmp_path):
    table = [*rows, dataclasses.replace(rows[0], id="odd", transcript="ba 7")]
    ((config, stage),) = make_stages([config_of(root)], 0)
    assert pickle.loads(pickle.dumps(stage)).config == config
    after, result = run_stage(
        config, stage, table, number=1, folder=tmp_path, workers=Workers(1), log=lambda line: None
    )
    assert [row.dropped is None for row in after] == [True] * 5 + [False]
    assert result.report is not None
    assert result.report.figure is not None
    assert len(result.report.table) == 5


def test_sentences_share_the_whole_score():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((120, 9))
    alignment = align_tokens(logits, rng.integers(1, 9, 30))
    scores = sentence_scores(alignment, [10, 5, 15])
    assert (scores * [10, 5, 15]).sum() == pytest.approx(alignment.score)
    assert len(set(scores.round(6))) == 3


def test_texts_become_sentences():
    assert sentences_of("a b. C d? «e!» f") == ["a b.", "C d?", "«e!»", "f"]
    assert sentences_of("a. b\n\n c \n") == ["a. b", "c"]
    assert sentences_of("  ") == []


def test_the_tokens_of_a_text_tower_are_written_by_its_tokenizer(root):
    tokenizer = TextTokenizer(root / "towers" / "text")
    vocabulary = text_tower_vocabulary(["ba ce", "di fo"], tokenizer)
    ids = Speller(vocabulary, tokenizer).labels("Ba di.", where="r")
    assert vocabulary.join(ids) == "ba di"
    with pytest.raises(MrlError, match="tokens of a text tower, and none is given"):
        Speller(vocabulary)
    with pytest.raises(MrlError, match="are not those of a text tower"):
        Speller(character_vocabulary(["ba"]), tokenizer)


def test_a_recogniser_of_capitals_reads_small_letters():
    vocabulary = CtcVocabulary(("<pad>", "|", "A", "B"))
    assert Speller(vocabulary).labels("ab, a", where="r").tolist() == [2, 3, 1, 2]


def test_what_is_no_recogniser_is_refused_before_anything_runs(root):
    speech = root / "towers" / "text"
    with pytest.raises(MrlError, match="expected a recogniser"):
        Align(AlignConfig(recogniser=str(speech)))
    with pytest.raises(MrlError, match="no such"):
        Align(AlignConfig(recogniser=str(root / "nothing")))
    with pytest.raises(MrlError, match=r"window_seconds: is 1 s, expected 8 or more"):
        config_of(root, window_seconds=1.0)
    with pytest.raises(MrlError, match=r"stages\.align\.recogniser: is empty"):
        AlignConfig(recogniser="")
    with pytest.raises(MrlError, match="are not those of a text tower"):
        Align(config_of(root, text_tower=str(root / "towers" / "text")))


def test_a_recording_of_hours_is_not_decoded(root, rows, monkeypatch):
    monkeypatch.setattr("mrl_jax.curation.align.load_audio", None)
    row = dataclasses.replace(rows[0], end=None).with_measured("source", seconds=7200.0)
    with pytest.raises(BrokenRow, match="is longer than max_seconds, 3600"):
        Align(config_of(root)).apply(row)


def test_a_score_that_no_row_has_is_refused(root):
    with pytest.raises(MrlError, match=r"stages.align.min_score: is 2, expected 0 or less"):
        config_of(root, min_score=2.0)


def test_a_line_of_marks_does_not_lose_the_recording(root, rows):
    lines = f"* * *\n{rows[0].transcript}"
    row = dataclasses.replace(rows[0], transcript=lines, text="one\ntwo")
    marks, said = Align(config_of(root, cut="sentences")).apply(row)
    assert marks.dropped == "align: has nothing that the recogniser writes"
    assert (marks.audio, marks.text) == (None, "one")
    assert (said.id, said.text, said.dropped) == (f"{row.id}-0002", "two", None)
    with pytest.raises(BrokenRow, match="nothing that the recogniser writes"):
        Align(config_of(root, cut="sentences")).apply(dataclasses.replace(row, transcript="*\n*"))
