"""Faults are planted where the benchmark says so, and nowhere else."""

import numpy as np
import pytest
import soundfile

from benchmarks.planted_faults import SHARES, count, plant
from mrl_jax.curation.rows import Row
from mrl_jax.curation.same_clip import clip_digests
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.text.normalize import plain_text

ROWS, HELD_OUT = 60, 40
FOREIGN = ["an English text", "another English text"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)

    def row(name: str, split: str):
        path = folder / f"{name}.flac"
        soundfile.write(path, rng.uniform(-0.1, 0.1, 1600), 16_000)
        texts = {"text": f"Texte {name}, oui.", "transcript": f"waxtaan {name}"}
        return {"id": name, "audio": str(path), "split": split, "speaker": "s", **texts}

    train = [row(f"t{number}", "train") for number in range(ROWS)]
    held_out = [row(f"h{number}", "test") for number in range(HELD_OUT)]
    return plant(train, held_out, FOREIGN, folder / "audio", seed=1)


def added(planted, kind: str) -> list[dict]:
    return [row for row in planted.faulty if planted.kinds.get(row["id"]) == kind]


def changed(planted, kind: str) -> list[tuple[dict, dict]]:
    """Rows with a fault, each with the row as it was."""
    clean = {row["id"]: row for row in planted.clean}
    return [(row, clean[row["id"]]) for row in added(planted, kind)]


def test_each_kind_has_its_share_and_no_row_has_two(planted):
    counts = {kind: len(added(planted, kind)) for kind in SHARES}
    assert counts == {"swapped": 6, "duplicate": 3, "foreign": 3, "noisy": 3, "leaked": 2}
    assert len(planted.faulty) == ROWS + 3 + 2
    clean = {row["id"]: row for row in planted.clean}
    untouched = [row for row in planted.faulty if row["id"] not in planted.kinds]
    assert all(row == clean[row["id"]] for row in untouched)


def test_swapped_texts_are_another_swapped_rows(planted):
    rows = changed(planted, "swapped")
    assert {row["text"] for row, _ in rows} == {old["text"] for _, old in rows}
    for row, old in rows:
        assert row["text"] != old["text"]
        assert row["transcript"] != old["transcript"]
        assert row["text"].split()[1].strip(",") == row["transcript"].split()[1]
        assert row["audio"] == old["audio"]


def test_copies_and_leaks_are_the_same_sound_and_the_same_words(planted):
    originals = [*planted.clean, *planted.held_out]
    for kind in ("duplicate", "leaked"):
        for row in added(planted, kind):
            [of] = [r for r in originals if plain_text(r["text"]) == plain_text(row["text"])]
            assert row["text"] != of["text"]
            assert row["audio"] != of["audio"]
            assert (of["split"] == "test") == (kind == "leaked")
            pair = [Row(id=r["id"], audio=r["audio"]) for r in (row, of)]
            assert clip_digests(pair, "samples")[0] is not None


def test_noise_is_as_loud_as_the_speech(planted):
    for row, old in changed(planted, "noisy"):
        noisy, clean = (load_clip(r["audio"], 16_000) for r in (row, old))
        gain = np.dot(noisy, clean) / np.dot(clean, clean)  # Loud ones were scaled down.
        noise = noisy - gain * clean
        snr = 10 * np.log10(gain**2 * np.square(clean).mean() / np.square(noise).mean())
        assert abs(snr) < 1


def test_counting():
    kinds = {"a": "foreign", "b": "noisy", "c": "leaked", "x": "swapped"}
    dropped = {"a": "wrong_language: x", "b": "wrong_language: x", "d": "wrong_language: x"}
    rows = [
        Row(id=f"w/{name}", text="t", dropped=dropped.get(name))
        for name in ("a", "b", "c", "d", "e")
    ]
    found = count(rows, kinds)
    foreign, noisy = found["kinds"]["foreign"], found["kinds"]["noisy"]
    assert (foreign["recall"], foreign["precision"]) == (1.0, 0.3333)
    assert foreign["with_another"] == 1
    assert (noisy["recall"], noisy["dropped_by_stage"]) == (1.0, 0)
    assert found["kinds"]["leaked"]["recall"] == 0
    assert found["all"]["recall"] == 0.6667
    assert found["all"]["good_rows_dropped"] == 0.5
