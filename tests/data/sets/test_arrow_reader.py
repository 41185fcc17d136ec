"""Parquet and Arrow files of any origin: the same rows, and one line whatever is wrong."""

import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from hub_tables import AUDIO, parquet, pyarrow, soundfile, tone, wav
from tiers import mostly_slow

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import decode_clip
from mrl_jax.data.sets.arrow_reader import ArrowReader
from mrl_jax.data.sets.intent_set import read_intent_set
from mrl_jax.data.sets.manifest import EmbeddedAudio
from mrl_jax.data.sets.parquet import EmbeddedReader, read_parquet
from mrl_jax.data.sets.tables import read_rows, row_audio

LABELS = {"language": {"names": ["wo", "fr"], "_type": "ClassLabel"}}


def sound_table(rows: int = 6):
    audio = [{"bytes": wav(300 + 50 * i), "path": f"{i}.wav"} for i in range(rows)]
    table = pyarrow.table(
        {
            "audio": pyarrow.array(audio, AUDIO),
            "text": [f"texte {i}" for i in range(rows)],
            "speaker": pyarrow.array([1.0, None, 2.5] * (rows // 3)),
            "language": pyarrow.array([0, 1] * (rows // 2)),
        }
    )
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": LABELS}})}
    )


def write_arrow(table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(file), "wb") as out, pyarrow.ipc.new_stream(out, table.schema) as s:
        s.write_table(table, max_chunksize=4)


def recordings(examples) -> list[bytes | Path | None]:
    reader = EmbeddedReader()
    return [reader.read(example.audio) for example in examples]


def encoded(table, name: str):
    """The same table with one column in another encoding."""
    place = table.column_names.index("text")
    column = table["text"].combine_chunks()
    if name == "dictionary":
        column = column.dictionary_encode()
    elif name != "string":
        column = column.cast({"view": pyarrow.string_view(), "large": pyarrow.large_string()}[name])
    return table.set_column(place, "text", column)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("encoding", mostly_slow(["view", "dictionary", "string", "large"]))
def test_every_encoding_gives_the_same_rows(tmp_path, encoding, form):
    table = encoded(sound_table(), encoding)
    if form == "parquet":
        file = tmp_path / "train-00000-of-00001.parquet"
        parquet.write_table(table, file, row_group_size=4)
    else:
        file = tmp_path / "data-00000-of-00001.arrow"
        write_arrow(table, file)
        (tmp_path / "state.json").write_text('{"_split": "test"}')
    examples = read_parquet(tmp_path)
    assert [example.text for example in examples] == [f"texte {i}" for i in range(6)]
    assert [example.speaker for example in examples] == ["1", None, "2.5"] * 2
    assert [example.language for example in examples] == ["wo", "fr"] * 3
    assert {example.split for example in examples} == {"train" if form == "parquet" else "test"}
    assert recordings(examples) == [wav(300 + 50 * i) for i in range(6)]
    assert recordings(examples[::-1]) == [wav(300 + 50 * i) for i in range(6)][::-1]
    for first in range(6):
        _, later = ArrowReader().rows(file, columns=["text"], first=first)
        assert [row["text"] for row in later] == [f"texte {i}" for i in range(first, 6)]
    rows = [row for _, row in read_rows(file, columns=["audio.path", "language"])]
    assert rows[1] == {"audio": {"path": "1.wav"}, "language": "fr"}


def test_a_folder_of_save_to_disk(tmp_path):
    for split, rows in (("train", 6), ("test.clean", 3 * 2)):
        write_arrow(sound_table(rows), tmp_path / split / "data-00000-of-00001.arrow")
        (tmp_path / split / "state.json").write_text(json.dumps({"_split": split}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test.clean"]}')
    examples = read_parquet(tmp_path)
    assert {example.split for example in examples} == {"train", "test_clean"}
    assert len(read_parquet(tmp_path / "train")) == 6
    labelled = sound_table().append_column("label", pyarrow.array(["a", "b"] * 3))
    write_arrow(labelled, tmp_path / "train" / "data-00000-of-00001.arrow")
    intents = read_intent_set(tmp_path / "train")
    assert [(one.label, one.split, one.speaker) for one in intents[:2]] == [
        ("a", "train", "1"),
        ("b", "train", None),
    ]


def array_column(kind, scale: float):
    scaled = [tone(hertz) * scale for hertz in (300, 500)]
    samples = [(np.round(one) if scale > 1 else one).astype(kind) for one in scaled]
    rows = [{"array": list(one), "sampling_rate": 16000, "path": None} for one in samples]
    values = pyarrow.list_(pyarrow.from_numpy_dtype(kind))
    fields = [("path", pyarrow.string()), ("array", values), ("sampling_rate", pyarrow.int64())]
    return pyarrow.array([*rows, None], pyarrow.struct(fields))


@pytest.mark.parametrize(("kind", "scale"), [("f4", 1), ("f8", 1), ("i2", 32768)])
def test_samples_in_the_table_are_those_of_the_recording(tmp_path, kind, scale):
    table = pyarrow.table({"audio": array_column(np.dtype(kind), scale), "text": ["a", "b", "c"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    first, second, none = recordings(read_parquet(tmp_path))
    assert none is None
    for hertz, data in ((300, first), (500, second)):
        assert isinstance(data, bytes)
        clip = decode_clip(data, 16000, name="x")
        np.testing.assert_allclose(clip, tone(hertz), atol=1e-7 if scale == 1 else 1 / 32768)
    (_, row), *_ = read_rows(tmp_path / "x.parquet")
    assert row_audio("x", row["audio"], tmp_path) == first
    listed = {"array": tone(300).tolist(), "sampling_rate": 16000.0}  # As JSON has it.
    spoken = row_audio("x", listed, tmp_path)
    assert isinstance(spoken, bytes)
    np.testing.assert_array_equal(decode_clip(spoken, 16000, name="x"), tone(300))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"array": [0.1], "sampling_rate": None}, "`sampling_rate` is None"),
        ({"array": [0.1], "sampling_rate": 0}, "`sampling_rate` is 0"),
        ({"array": ["a"], "sampling_rate": 16000}, "`array` cannot be read as samples"),
        ({"array": [[0.1], [0.1, 0.2]], "sampling_rate": 16000}, "`array` cannot be read"),
        (3, "`audio` is 3"),
    ],
)
def test_samples_that_are_none(value, message):
    with pytest.raises(MrlError, match=message):
        row_audio("row 1", value, Path())


def test_bytes_or_path_is_decided_row_by_row(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(700), 16000)
    rows = [
        {"bytes": wav(300), "path": "x.wav"},
        {"bytes": None, "path": "x.wav"},
        {"bytes": b"", "path": "x.wav"},
        {"bytes": None, "path": None},
        {"bytes": None, "path": ""},
        None,
    ]
    texts = [str(i) for i in range(len(rows))]
    for statistics in (True, False):
        table = pyarrow.table({"audio": pyarrow.array(rows, AUDIO), "text": texts})
        parquet.write_table(table, tmp_path / "x.parquet", write_statistics=statistics)
        file = tmp_path / "x.wav"
        assert recordings(read_parquet(tmp_path)) == [wav(300), file, file, None, None, None]
        rows_read = [row for _, row in read_rows(tmp_path / "x.parquet")]
        assert [row_audio("x", row["audio"], tmp_path) for row in rows_read] == [
            wav(300),
            file,
            file,
            None,
            None,
            None,
        ]


def test_a_small_file_may_not_take_all_memory(tmp_path):
    def message(table, **options) -> str:
        parquet.write_table(table, tmp_path / "x.parquet", compression="zstd", **options)
        assert (tmp_path / "x.parquet").stat().st_size < 200_000
        with pytest.raises(MrlError) as error:
            for _ in read_rows(tmp_path / "x.parquet"):
                pass
        return str(error.value)

    cells = pyarrow.array([b"\0" * (300 << 20)], pyarrow.binary())
    assert "row 1: holds a cell of 300 MB, expected 256 MB at most" in message(
        pyarrow.table({"audio": cells}), use_dictionary=False
    )
    many = pyarrow.array(["x" * 60_000_000]).dictionary_encode()
    many = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, "int32"), many.dictionary)
    assert "takes more than 1.5 GB of memory to read" in message(pyarrow.table({"text": many}))
    nulls = pyarrow.nulls(3_000_000, pyarrow.string())
    assert "unfolds to more than" in message(pyarrow.table({"text": nulls}))


def test_flipped_bits_are_told_and_end_nothing(tmp_path):
    """Of footers, most of all: some make Arrow abort, or read outside its memory."""
    parquet.write_table(sound_table(), tmp_path / "whole.parquet", write_page_checksum=True)
    write_arrow(sound_table(), tmp_path / "whole.arrow")
    rng = random.Random(0)
    told: list[bool] = []
    with ArrowReader() as reader:
        for form in ("parquet", "arrow"):
            whole = (tmp_path / f"whole.{form}").read_bytes()
            footer = len(whole) - 1500 if form == "parquet" else 0
            for _ in range(60):
                damaged, file = bytearray(whole), tmp_path / f"x.{form}"
                for _ in range(rng.choice((1, 2, 4))):
                    damaged[rng.randrange(footer, len(whole))] ^= 1 << rng.randrange(8)
                file.write_bytes(damaged)
                try:
                    list(reader.rows(file)[1])
                except MrlError as error:
                    told.append(str(error).startswith(str(file)) and "\n" not in str(error))
        assert all(told)
        assert 10 < len(told) < 120
        _, rows = reader.rows(tmp_path / "whole.parquet")  # The next table is read as ever.
        assert [row["text"] for row in rows] == [f"texte {i}" for i in range(6)]


def test_a_reader_that_dies_is_named(tmp_path):
    parquet.write_table(sound_table(6), tmp_path / "x.parquet", row_group_size=1)
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    if not listed.is_file():
        pytest.skip("the system does not list child processes")
    before = set(listed.read_text().split())
    with ArrowReader() as reader:
        reader.describe(tmp_path / "x.parquet")
        (started,) = set(listed.read_text().split()) - before
        os.kill(int(started), signal.SIGABRT)
        with pytest.raises(MrlError, match=r"as Parquet \(its reader ended by SIGABRT\)"):
            reader.describe(tmp_path / "x.parquet")
        assert list(reader.describe(tmp_path / "x.parquet").columns)[:2] == ["audio", "text"]
    assert not set(listed.read_text().split()) - before


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.parquet")
    for name, problem in (("x.parquet", "is no regular file"), ("y.parquet", "no such file")):
        with pytest.raises(MrlError, match=problem):
            list(read_rows(tmp_path / name))


def test_rows_in_any_order_and_of_many_tables(tmp_path):
    for number in range(2):
        table = sound_table(6).slice(number * 3, 3)
        parquet.write_table(table, tmp_path / f"train-0000{number}-of-00002.parquet")
    places = [example.audio for example in read_parquet(tmp_path)]
    order = [5, 0, 3, 3, 1, 4, 2]
    reader = EmbeddedReader()
    chosen = [place for place in (places[i] for i in order) if isinstance(place, EmbeddedAudio)]
    assert [reader.read(place) for place in chosen] == [wav(300 + 50 * i) for i in order]
