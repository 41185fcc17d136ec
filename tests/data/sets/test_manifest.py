"""Manifests and Parquet tables: what is read, and the message for a mistake in one."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.manifest import EmbeddedAudio, Example, read_manifest
from mrl_jax.data.sets.parquet import EmbeddedReader, ParquetColumns, read_parquet
from mrl_jax.data.sets.tables import split_of

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

ROW = {"id": "a", "audio": "a.wav", "text": "Où est le mil ?"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(MrlError) as error:
        read_manifest(path)
    line = str(error.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    return line.removeprefix(str(path))


def test_a_row_becomes_an_example_with_defaults(tmp_path):
    path = write(tmp_path / "m.jsonl", ROW, ROW | {"id": "b", "audio": "/x/b.flac"})
    first, second = read_manifest(path)
    assert first == Example(id="a", audio=tmp_path / "a.wav", text="Où est le mil ?")
    assert (first.task, first.split) == ("", "train")
    assert (first.transcript, first.language, first.speaker, first.document_id) == (None,) * 4
    assert second.audio == Path("/x/b.flac")


def test_every_optional_key_is_read_and_others_are_not(tmp_path):
    optional = {
        "task": "t",
        "transcript": "x",
        "language": "wo",
        "speaker": "s",
        "document_id": "d",
        "split": "test",
    }
    (example,) = read_manifest(write(tmp_path / "m.jsonl", ROW | optional | {"novel": [1]}))
    assert {key: getattr(example, key) for key in optional} == optional
    (example,) = read_manifest(write(tmp_path / "m.jsonl", ROW | dict.fromkeys(optional)))
    assert example == Example(id="a", audio=tmp_path / "a.wav", text=ROW["text"])


def test_a_weight_is_a_number_and_1_without_one(tmp_path):
    rows = [ROW, ROW | {"id": "b", "weight": 2}, ROW | {"id": "c", "weight": None}]
    examples = read_manifest(write(tmp_path / "m.jsonl", *rows))
    assert [example.weight for example in examples] == [1.0, 2.0, 1.0]
    for bad in (0, -1.5, float("inf"), "2", True, [1]):
        line = refusal(write(tmp_path / "m.jsonl", ROW | {"weight": bad}))
        assert line.startswith((", line 1: 'weight' is ", ", line 1: is not JSON ("))
        assert "expected a number above 0" in line or bad == float("inf")


def test_a_documents_identity_is_its_id_or_its_text(tmp_path):
    rows = (ROW, ROW | {"id": "b", "document_id": 7}, ROW | {"id": "c", "text": "Non."})
    examples = read_manifest(write(tmp_path / "m.jsonl", *rows))
    assert [example.document for example in examples] == ["Où est le mil ?", "7", "Non."]


def test_strange_but_good_files(tmp_path):
    text = "Ñu ngi fi \u2028 ŋaar\x85 𞤀"
    rows = [ROW | {"id": 17, "text": text, "speaker": 3}, ROW | {"id": "17b"}]
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n\r\n  \n\n")
    first, second = read_manifest(path)
    assert (first.id, first.speaker, first.text) == ("17", "3", text)
    assert second.id == "17b"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}", ", line 2: is not JSON (Expecting property name"),
        ('{"id": "b"', ", line 2: is not JSON ("),
        ("[" * 100000, ", line 2: is not JSON ("),
        ("[1]", ", line 2: is [1], expected a JSON object"),
        ("null", ", line 2: is null, expected a JSON object"),
        ('{"id": "b", "text": "x"}', ", line 2: no 'audio'; the keys there are: 'id', 'text'."),
        ("{}", ", line 2: no 'id' and no 'audio' and no 'text'; the keys there are: none"),
        ('{"id": "b", "audio": "b", "text": null}', ", line 2: no 'text'; "),
        ('{"id": "a", "audio": "b", "text": "x"}', ", line 2: the id 'a' is that of "),
        ('{"id": "b", "audio": "b", "text": ""}', ", line 2: 'text' is empty"),
        ('{"id": "b", "audio": "b", "text": " \\t"}', ", line 2: 'text' is empty"),
        ('{"id": "", "audio": "b", "text": "x"}', ", line 2: 'id' is empty"),
        ('{"id": "b", "audio": "", "text": "x"}', ", line 2: 'audio' is empty"),
        ('{"id": "b", "audio": "b", "text": 5}', ", line 2: 'text' is 5, of type int, expected a"),
        ('{"id": true, "audio": "b", "text": "x"}', ", line 2: 'id' is True, of type bool"),
        ('{"id": "b", "audio": ["b"], "text": "x"}', ", line 2: 'audio' is ['b'], of type list"),
        ('{"id": "b", "audio": "b", "text": "\\ud800"}', ", line 2: 'text' holds half a surr"),
        ('{"id": "b", "audio": "b", "text": "x", "split": "a-b"}', ", line 2: the split 'a-b'"),
        ('{"id": "b", "audio": "b", "text": "x", "split": "all"}', ", line 2: the split 'all'"),
        ('{"id": "b", "audio": "b", "text": "x", "split": ""}', ", line 2: 'split' is empty"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line, message, tmp_path):
    path = write(tmp_path / "m.jsonl", ROW)
    assert len(read_manifest(path)) == 1
    with path.open("a") as file:
        file.write(line)
    assert refusal(path).startswith(message)


def test_a_number_and_its_words_are_one_id(tmp_path):
    path = write(tmp_path / "m.jsonl", ROW | {"id": 1}, ROW | {"id": "2"}, ROW | {"id": "1"})
    assert refusal(path).startswith(f", line 3: the id '1' is that of {path}, line 1 as well")


def test_missing_and_empty_manifests_and_other_encodings(tmp_path):
    path = tmp_path / "m.jsonl"
    assert refusal(path).startswith(": no such file")
    assert refusal(tmp_path).startswith(": is a folder")
    for content in (b"", b"\n\n", b"\xef\xbb\xbf"):
        path.write_bytes(content)
        assert refusal(path).startswith(": the manifest is empty")
    path.write_bytes(json.dumps(ROW, ensure_ascii=False).encode("latin-1"))
    assert ", line 1: byte" in refusal(path)
    path.write_bytes(json.dumps(ROW).encode("utf-16"))
    assert "is not UTF-8. Save it as UTF-8" in refusal(path)


def table(count: int, start: int = 0, **columns: list) -> Any:
    """Rows as the hub has them: embedded bytes, and the name of the file that they were."""
    numbers = range(start, start + count)
    audio = [{"bytes": b"sound %d" % i, "path": f"{i}.wav"} for i in numbers]
    return pyarrow.table({"audio": audio, "text": [f"texte {i}" for i in numbers]} | columns)


def test_a_published_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("x")
    parquet.write_table(table(40), tmp_path / "data/train-00000-of-00002.parquet", row_group_size=7)
    parquet.write_table(table(3, 40), tmp_path / "data/train-00001-of-00002.parquet")
    parquet.write_table(
        table(2, 50, language=["wo", None]), tmp_path / "data/test-00000-of-00001-ab12.parquet"
    )
    examples = read_parquet(tmp_path)
    test, train = examples[:2], examples[2:]
    assert [e.id for e in test] == ["test-0", "test-1"]
    assert [e.id for e in train] == [f"train-{i}" for i in range(43)]
    assert [e.text for e in train] == [f"texte {i}" for i in range(43)]
    assert [e.language for e in test] == ["wo", None]
    assert {e.split for e in test} == {"test"}
    assert {e.split for e in train} == {"train"}
    reader = EmbeddedReader()
    places = [e.audio for e in train if isinstance(e.audio, EmbeddedAudio)]
    assert len(places) == len(train)
    assert [reader.read(place) for place in places] == [b"sound %d" % i for i in range(43)]
    assert [reader.read(places[i]) for i in (39, 2, 2, 41)] == [
        b"sound 39",
        b"sound 2",
        b"sound 2",
        b"sound 41",
    ]


def test_columns_can_have_other_names(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {"id": [5, 5], "fr": ["un", "deux"], "wav": [b"1", b"2"], "who": [1.0, 2.0]}
    parquet.write_table(table(2, **columns, split=["dev", "train"]), path)
    names = ParquetColumns(audio="wav", text="fr", speaker="who", id=None)
    first, second = read_parquet(path, names)
    assert first == Example(
        id="dev-0",
        audio=EmbeddedAudio(file=path, row=0),
        text="un",
        speaker="1",
        split="dev",
    )
    assert second.id == "train-0"
    assert isinstance(second.audio, EmbeddedAudio)
    assert EmbeddedReader("wav").read(second.audio) == b"2"
    with pytest.raises(MrlError, match=r", row 2: the id '5' is that of .*, row 1 as well"):
        read_parquet(path)
    with pytest.raises(MrlError, match=r"no column 'fra' for 'text'; .*there are: audio, text"):
        read_parquet(path, ParquetColumns(text="fra", id=None))
    with pytest.raises(MrlError, match=r"no column 'tongue' for 'language'.*--column language="):
        read_parquet(path, ParquetColumns(language="tongue", id=None))
    with pytest.raises(MrlError, match="'id' is of type int64, expected bytes"):
        read_parquet(path, ParquetColumns(audio="id", id=None))


def test_tables_that_name_files(tmp_path):
    paths = ["one.wav", "sub/two.wav", None]
    structs = [{"bytes": None, "path": path} for path in paths]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    for audio in (pyarrow.array(paths), pyarrow.array(structs, kind)):
        columns = {"audio": audio, "text": ["a", "b", "c"]}
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        one, two, none = read_parquet(tmp_path)
        files = tmp_path / "one.wav", tmp_path / "sub/two.wav"
        if pyarrow.types.is_struct(audio.type):  # Each row may still hold bytes: they go first.
            table_file = tmp_path / "x.parquet"
            places = [EmbeddedAudio(file=table_file, row=i, path=files[i]) for i in (0, 1)]
            assert [one.audio, two.audio] == places
            assert [EmbeddedReader().read(place) for place in places] == list(files)
        else:
            assert (one.audio, two.audio) == files
        assert isinstance(none.audio, EmbeddedAudio)  # The builder counts it as broken.
        reader = EmbeddedReader()
        assert reader.read(none.audio) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/test_clean-00001-of-00012-9f.parquet", "test_clean"),
        ("validation-0.parquet", "validation"),
        ("test.parquet", "test"),
        ("test/0000.parquet", "test"),
        ("part-3.parquet", "train"),
        ("testing.parquet", "train"),
        ("train.clean.100/0000.parquet", "train_clean_100"),
        ("validation.clean/0000.parquet", "validation_clean"),
        ("data/test.other-00000-of-00003.parquet", "test_other"),
        ("test.clean.parquet", "test_clean"),
    ],
)
def test_splits_by_file_name(name, split):
    assert split_of(Path(name)) == split


def test_bad_tables_and_folders(tmp_path):
    def message(source: Path) -> str:
        with pytest.raises(MrlError) as error:
            read_parquet(source)
        return str(error.value)

    assert "no such file or folder" in message(tmp_path / "x")
    assert "there is no .parquet file here" in message(tmp_path)
    for config in ("wo", "fr"):
        (tmp_path / config).mkdir()
        parquet.write_table(table(1), tmp_path / config / "train-00000-of-00001.parquet")
    assert "there are several data sets here: fr, wo" in message(tmp_path)
    assert read_parquet(tmp_path / "wo")[0].id == "train-0"
    path = tmp_path / "x.parquet"
    parquet.write_table(table(1), path)
    path.write_bytes(path.read_bytes()[:-9])
    assert message(path).startswith(f"{path}: cannot be read as Parquet (")
    for empty in ("", None, " "):
        parquet.write_table(table(2, text=["a", empty]), path)
        assert [example.text for example in read_parquet(path)] == ["a", ""]
    parquet.write_table(table(2, text=[3, 4]), path)
    assert "'text' is 3, of type int, expected a string. Choose another column" in message(path)
    assert "--column text=NAME" in message(path)
    parquet.write_table(table(1).slice(0, 0), path)
    assert "the tables have no rows" in message(path)
