"""Speech by espeak-ng with noise and music between comes back as the clips that it was."""

import numpy as np
import pytest
import soundfile
from joined_audio import RATE, joined, music, noise, trimmed

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.rows import Row
from mrl_jax.curation.segment import Segment, SegmentConfig, clip_spans
from mrl_jax.curation.stage import BrokenRow
from mrl_jax.curation.voice import FRAME_SECONDS, stretches

SENTENCES = ("nanga def tey ci suba", "maa ngi fi rekk jamm", "ana waa kër ga ñoom")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A recording of three sentences, its path, and where the sentences are."""
    from mrl_jax.demo.voices import TEST_VOICES, Utterance, require_espeak, speak

    try:
        require_espeak()
    except MrlError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("recording")
    paths = [folder / f"{number}.flac" for number in range(3)]
    speak([Utterance(t, v, p) for t, v, p in zip(SENTENCES, TEST_VOICES, paths, strict=False)])
    speech = [trimmed(soundfile.read(path, dtype="float32")[0]) for path in paths]
    pieces = [
        (False, noise(2.0, 0.01, 0)),
        (True, speech[0]),
        (False, np.concatenate([noise(1.0, 0.02, 1), music(3.0, 0.3)])),
        (True, speech[1]),
        (False, music(4.0, 0.3, 330.0)),
        (True, speech[2]),
        (False, noise(2.5, 0.01, 2)),
    ]
    samples, spans = joined(pieces)
    samples = samples + noise(samples.size / RATE, 0.001, 3).astype(np.float32)
    soundfile.write(folder / "whole.flac", samples, RATE)
    return folder / "whole.flac", spans, samples.size / RATE


def row_of(recording) -> Row:
    path, _, seconds = recording
    return Row(id="r", audio=str(path), measured={"source.seconds": seconds})


def test_sentences_come_back_within_two_tenths_of_a_second(recording):
    rows = Segment(SegmentConfig(shortest=0.5)).apply(row_of(recording))
    kept = [row for row in rows if row.dropped is None]
    assert len(kept) == 3
    for row, (start, end) in zip(kept, recording[1], strict=True):
        assert row.end is not None
        assert abs(row.start + 0.1 - start) < 0.2
        assert abs(row.end - 0.1 - end) < 0.2
        assert float(row.measured["segment.speech"]) > 0.5


def test_every_second_is_a_row_and_none_is_in_two(recording):
    rows = Segment(SegmentConfig(shortest=0.5, least_rest=0.1)).apply(row_of(recording))
    ends = [0.0, *(row.end for row in rows)]
    starts = [*(row.start for row in rows), recording[2]]
    assert ends == pytest.approx(starts, abs=0.11)
    assert all(end <= start + 1e-6 for end, start in zip(ends, starts, strict=True) if end)
    assert {row.dropped for row in rows} == {None, "segment: holds no speech"}
    assert len({row.id for row in rows}) == len(rows)


def test_blocks_do_not_change_what_is_found(recording, monkeypatch):
    from mrl_jax.curation import segment

    whole = Segment(SegmentConfig(shortest=0.5)).apply(row_of(recording))
    blocks = segment.audio_blocks
    monkeypatch.setattr(segment, "audio_blocks", lambda row, rate: blocks(row, rate, 1.7))
    assert Segment(SegmentConfig(shortest=0.5)).apply(row_of(recording)) == whole


def test_rows_with_a_transcript_stay_whole(recording):
    row = Row(id="r", audio=str(recording[0]), transcript="nanga def")
    assert Segment(SegmentConfig()).apply(row) == [row]
    text = Row(id="t", text="a text")
    assert Segment(SegmentConfig()).apply(text) == [text]


def test_a_recording_that_breaks_off_is_a_broken_row(recording, tmp_path):
    path, _, seconds = recording
    data = path.read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    row = Row(id="r", audio=str(tmp_path / "cut.flac"), measured={"source.seconds": seconds})
    with pytest.raises(BrokenRow, match="cannot be decoded as audio"):
        Segment(SegmentConfig()).apply(row)


def test_a_pause_ends_a_stretch_and_a_dip_does_not():
    speech = np.array([0.1, 0.9, 0.4, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.9], np.float32)
    assert stretches(speech, threshold=0.5, pause=3) == [(1, 6), (9, 10)]
    assert stretches(speech, threshold=0.5, pause=2) == [(1, 6), (9, 10)]
    assert stretches(speech, threshold=0.5, pause=1) == [(1, 4), (5, 6), (9, 10)]


def test_a_long_stretch_is_cut_where_speech_is_least_likely():
    speech = np.full(1000, 0.95, np.float32)
    speech[[400, 700]] = 0.4
    config = SegmentConfig(longest=500 * FRAME_SECONDS, shortest=1.0, padding=0.0)
    spans = clip_spans(speech, 1000 * FRAME_SECONDS, config)
    cuts = [round(start / FRAME_SECONDS) for start, _ in spans]
    assert cuts == [0, 400, 700]
    assert spans[-1][1] == pytest.approx(1000 * FRAME_SECONDS, abs=1e-3)


def test_near_stretches_are_joined_and_padding_never_overlaps():
    speech = np.zeros(200, np.float32)
    speech[10:50] = speech[60:100] = speech[140:180] = 0.9
    near = SegmentConfig(join=12 * FRAME_SECONDS, padding=0.0)
    assert len(clip_spans(speech, 200 * FRAME_SECONDS, near)) == 2
    apart = SegmentConfig(join=0.0, padding=9.0, longest=30.0)
    spans = clip_spans(speech, 200 * FRAME_SECONDS, apart)
    assert len(spans) == 3
    assert spans[0][0] == 0.0
    assert spans[0][1] == pytest.approx(spans[1][0]) == pytest.approx(55 * FRAME_SECONDS)


def test_clips_from_the_longest_to_the_shortest_are_refused():
    with pytest.raises(MrlError, match=r"shortest is 20.0 s and longest 15.0 s"):
        SegmentConfig(shortest=20.0)


def test_clips_of_a_frame_are_cut_and_padding_as_long_as_a_clip_is_refused():
    config = SegmentConfig(longest=0.04, shortest=0.01, padding=0.0)
    speech = np.full(5, 0.9, np.float32)
    assert len(clip_spans(speech, 5 * FRAME_SECONDS, config)) == 5
    with pytest.raises(MrlError, match=r"padding is 8.0 s at both ends of 15.0 s at most"):
        SegmentConfig(padding=8.0)


def test_a_short_recording_without_speech_stays_a_row(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(0.5, 0.01, 0), RATE)
    row = Row(id="r", audio=str(tmp_path / "a.wav"), measured={"source.seconds": 0.5})
    assert Segment(SegmentConfig()).apply(row) == [row.drop("segment", "holds no speech")]
