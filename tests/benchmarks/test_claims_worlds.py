"""Every world of the claims benchmark is whole, and its training holds nothing of its test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_claims
from repository import SHARED_DATA
from tiers import mostly_slow

from benchmarks.claims_worlds import files
from benchmarks.claims_worlds.arabic import draw_strings, load_words, write_arabic
from benchmarks.claims_worlds.asterisk import LANGUAGES, write_asterisk
from benchmarks.claims_worlds.digits import write_digits
from benchmarks.claims_worlds.mboshi import write_mboshi
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.data.sets.text_pairs import read_pairs
from mrl_jax.data.text.normalize import plain_text

Write = Callable[[Path], Path]
"""Writes a world below a folder, and returns where."""


def mboshi(folder: Path) -> Path:
    tiny_claims.write_mboshi_data(folder / "source")
    write_mboshi(folder / "source", folder / "world", "all", small=False)
    return folder / "world"


def digits(folder: Path) -> Path:
    tiny_claims.write_digits_data(folder / "source", ("theo", "george", "jackson"), (0, 5))
    write_digits(folder / "source", folder / "world", "theo", small=True)
    return folder / "world"


def arabic(folder: Path) -> Path:
    tiny_claims.write_arabic_data(folder / "source")
    write_arabic(folder / "source", folder / "world", "all", small=True)
    return folder / "world"


def asterisk(folder: Path) -> Path:
    tiny_claims.write_asterisk_data(folder / "source")
    write_asterisk(folder / "source", folder / "world", "all", small=False)
    return folder / "world"


def sentences_of_training(world: Path) -> set[str]:
    examples = [one for file in world.glob("*.jsonl") if "pairs" not in file.name
                for one in read_manifest(file)]  # fmt: skip
    said = {plain_text(text) for one in examples for text in (one.text, one.transcript or "")}
    pairs = read_pairs(world / files.PAIRS)
    return said | {plain_text(text) for pair in pairs for text in (pair.query, pair.document)}


@pytest.mark.parametrize("write", mostly_slow([mboshi, digits, arabic, asterisk]))
def test_a_world_is_whole_and_no_sentence_of_its_test_is_trained_on(write: Write, tmp_path: Path):
    world = write(tmp_path)
    counts = json.loads((world / files.WORLD_FILE).read_text())["counts"]
    trained = sentences_of_training(world)
    for name in ("validation", "test"):
        data = read_retrieval_set(world / name)
        assert len(data.queries) == counts[f"{name} queries"] > 1
        texts = {document.id: document.text for document in data.corpus}
        for query in data.queries:
            assert isinstance(query.audio, Path)
            assert len(load_clip(query.audio, 8_000)) > 1_000
            assert query.speaker
            assert plain_text(query.transcript or "") not in trained
            answers = [texts[key] for key in data.qrels[query.id]]
            assert not {plain_text(text) for text in answers} & trained
    examples = read_manifest(world / files.TRAIN)
    assert len(examples) == counts["training recordings"] > 5
    assert all(example.transcript and example.speaker for example in examples)
    assert all(Path(str(example.audio)).is_file() for example in examples)


def test_rows_that_say_a_sentence_of_the_dev_split_are_left_out(tmp_path: Path):
    names = {example.id for example in read_manifest(mboshi(tmp_path) / files.TRAIN)}
    assert "c0" in names or "c1" in names
    assert not {"c58", "c59"} & names  # By translation, and by transcript.


@pytest.mark.parametrize("write", mostly_slow([arabic, digits]))
def test_the_speakers_of_the_test_are_heard_nowhere_else(write: Write, tmp_path: Path):
    world = write(tmp_path)
    heard = {example.speaker for example in read_manifest(world / files.TRAIN)}
    validated = {query.speaker for query in read_retrieval_set(world / "validation").queries}
    tested = {query.speaker for query in read_retrieval_set(world / "test").queries}
    assert not tested & (heard | validated)
    assert tested == ({"theo"} if write is digits else {"val00", "val01"})


def test_all_languages_of_a_prompt_are_on_one_side(tmp_path: Path):
    world = asterisk(tmp_path)
    sides: dict[str, set[str]] = {}
    trained = read_manifest(world / files.RECOGNISER)
    said = [("train", example.transcript) for example in trained]
    for name in ("validation", "test"):
        said += [(name, query.transcript) for query in read_retrieval_set(world / name).queries]
    for side, transcript in said:
        sides.setdefault(str(transcript).split()[-1], set()).add(side)
    assert len(sides) == 30
    assert all(len(some) == 1 for some in sides.values())
    # The second English prompts say the same sentences, so only those of training are left.
    assert {example.id for example in trained} >= {"en-p30"} or "train" not in sides["0"]


def test_the_matrix_asks_in_each_language_for_each(tmp_path: Path):
    world = asterisk(tmp_path)
    test = read_retrieval_set(world / "test")
    for query, document in ((q, d) for q in LANGUAGES for d in LANGUAGES):
        data = read_retrieval_set(world / "matrix" / f"{query}-{document}")
        assert len(data.queries) * len(LANGUAGES) == len(test.queries)
        assert {one.speaker for one in data.queries} == {query}
        assert all(one.text.startswith(document) for one in data.corpus)


def test_takes_are_the_seconds_of_a_file_without_their_silence(tmp_path: Path):
    tiny_claims.write_arabic_data(tmp_path, words=2, takes=3)
    rows = files.read_table(tmp_path)
    takes = load_words(tmp_path, rows, ["val01"])
    assert list(takes) == ["val01"]
    assert [len(takes["val01"][word]) for word in ("w0", "w1")] == [3, 3]
    for clip in takes["val01"]["w1"]:
        assert 5_000 <= len(clip) <= 5_000 + 7 * 160


def test_strings_are_all_different():
    lists = draw_strings([f"w{i}" for i in range(5)], [60, 40, 25])
    assert [len(strings) for strings in lists] == [60, 40, 25]
    assert len({string for strings in lists for string in strings}) == 125
    with pytest.raises(MrlError, match="125 strings, 126 are needed"):
        draw_strings([f"w{i}" for i in range(5)], [126])


def leak_sentence(world: Path) -> None:
    query = read_retrieval_set(world / "test").queries[0]
    with (world / files.PAIRS).open("a", encoding="utf-8") as pairs:
        pairs.write(json.dumps({"query": f"{query.transcript}!".upper(), "document": "x"}) + "\n")


def leak_recording(world: Path) -> None:
    query = read_retrieval_set(world / "validation").queries[0]
    add_example(world, audio=str(query.audio), speaker="new")


def leak_speaker(world: Path) -> None:
    query = read_retrieval_set(world / "test").queries[0]
    audio = str(read_manifest(world / files.TRAIN)[0].audio)
    add_example(world, audio=audio, speaker=str(query.speaker))


def add_example(world: Path, **fields: str) -> None:
    row = {"id": "leak", "text": "nothing", "transcript": "nothing", **fields}
    with (world / files.TRAIN).open("a", encoding="utf-8") as examples:
        examples.write(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("leak", "problem"),
    [
        (leak_sentence, "training holds .* of test"),
        (leak_recording, "training holds the recording .* of validation"),
        (leak_speaker, "the test's speaker val0. is in training"),
    ],
)
def test_a_leak_is_refused(leak: Callable[[Path], None], problem: str, tmp_path: Path):
    world = arabic(tmp_path)
    files.check_world(world, speakers_apart=True)
    leak(world)
    with pytest.raises(MrlError, match=problem):
        files.check_world(world, speakers_apart=True)


def test_items_with_a_label_in_common_are_one_group():
    groups = files.components([["a"], ["b"], ["a", "c"], ["d"], ["c", "e"], []])
    same = np.equal.outer(groups, groups)
    expected = np.eye(6, dtype=bool)
    for one, other in ((0, 2), (2, 4), (0, 4)):
        expected[one, other] = expected[other, one] = True
    np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize("write", [write_mboshi, write_digits, write_arabic, write_asterisk])
def test_absent_data_are_refused_by_name(write: Callable[..., None], tmp_path: Path):
    with pytest.raises(MrlError, match="the data of this world are not there"):
        write(tmp_path / "none", tmp_path / "out", "theo", small=True)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the data sets are not there")
@pytest.mark.parametrize(
    ("write", "source", "part", "small", "expected"),
    [
        (write_mboshi, "mboshi", "all", False, {"test queries": 514, "test documents": 431}),
        (write_asterisk, "asterisk", "all", False, {"test speakers": 5, "training speakers": 5}),
        (write_digits, "fsdd", "theo", True, {"test documents": 1000, "training speakers": 3}),
        (write_arabic, "arabic_commands", "all", True, {"test speakers": 6,
         "validation speakers": 2}),
    ],
)  # fmt: skip
def test_the_real_data_make_worlds_without_leaks(
    write: Callable[..., None],
    source: str,
    part: str,
    small: bool,
    expected: dict[str, int],
    tmp_path: Path,
):
    if not (SHARED_DATA / source).is_dir():
        pytest.skip("the data set is not there")
    write(SHARED_DATA / source, tmp_path, part, small=small)
    counts = json.loads((tmp_path / files.WORLD_FILE).read_text())["counts"]
    assert expected.items() <= counts.items()
    trained = sentences_of_training(tmp_path)
    data = read_retrieval_set(tmp_path / "test")
    assert not {plain_text(query.transcript or "") for query in data.queries} & trained
