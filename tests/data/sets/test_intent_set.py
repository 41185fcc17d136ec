"""Intent sets: every form gives the same set, and every mistake is one line."""

import dataclasses
import json

import numpy as np
import pytest
from hub_tables import parquet, pyarrow, wav

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.digests import digest_intent_set
from mrl_jax.data.sets.intent_set import (
    IntentExample,
    IntentLabel,
    labels_of,
    load_intent_audio,
    read_intent_labels,
    read_intent_set,
)

ROWS = [
    {"id": "a", "text": "Fan laa mana jote kàrt?", "label": "card_arrival", "split": "train"},
    {"id": "b", "text": "Ñaata la, ci xaalis?", "label": "balance", "split": "train"},
    {"id": "c", "text": "Kàrt bi agsiwul", "label": "card_arrival", "split": "test"},
]
EXPECTED = tuple(IntentExample(audio=None, **row) for row in ROWS)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def write_csv(path, rows):
    """As pandas writes it: quoted where there is a comma."""
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    lines = [",".join(f'"{c}"' if "," in c else c for c in line) for line in cells]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_hub(path, rows, names=None):
    """As `datasets` pushes it: classes are numbers, their names in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {key: {"dtype": "string", "_type": "Value"} for key in rows[0]}
    if names:
        rows = [{**row, "label": names.index(row["label"])} for row in rows]
        features["label"] = {"names": names, "_type": "ClassLabel"}
    table = pyarrow.Table.from_pylist(rows)
    message = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(message), path)
    return path


def without(row, *keys):
    return {key: value for key, value in row.items() if key not in keys}


def test_three_kinds_of_table_give_the_same_set(tmp_path):
    assert read_intent_set(write_jsonl(tmp_path / "a.jsonl", ROWS)) == EXPECTED
    assert read_intent_set(write_csv(tmp_path / "a.csv", ROWS)) == EXPECTED
    assert read_intent_set(str(write_hub(tmp_path / "a.parquet", ROWS))) == EXPECTED
    assert labels_of(EXPECTED) == ("balance", "card_arrival")


def test_labels_in_words_from_every_kind_of_table(tmp_path):
    rows = [{**row, "label_text": row["label"].upper()} for row in ROWS]
    files = (
        write_jsonl(tmp_path / "a.jsonl", rows),
        write_csv(tmp_path / "a.csv", rows),
        write_hub(tmp_path / "hub" / "a.parquet", rows).parent,
    )
    for file in files:
        assert {e.label_text for e in read_intent_set(file)} == {"BALANCE", "CARD_ARRIVAL"}
    rows[-1]["label_text"] = "other"
    with pytest.raises(MrlError, match=r"is 'other' here and '[A-Z_]+' before"):
        read_intent_set(write_csv(tmp_path / "b.csv", rows))


@pytest.mark.parametrize("names", [None, ["card_arrival", "balance"], ["balance", "card_arrival"]])
@pytest.mark.parametrize(
    "place", ["data/{}-00000-of-00001.parquet", "{}.parquet", "{}/0000.parquet"]
)
def test_a_folder_of_the_hub_tells_splits_by_file_and_labels_by_metadata(tmp_path, place, names):
    for split in ("train", "test"):
        rows = [without(row, "split") for row in ROWS if row["split"] == split]
        write_hub(tmp_path / place.format(split), rows, names)
    examples = read_intent_set(tmp_path)
    assert sorted(examples, key=lambda e: e.id) == list(EXPECTED)
    assert [example.split for example in examples] == ["test", "train", "train"]


def test_a_folder_of_csv_files_that_are_named_by_their_split(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        rows = [without(row, "split", "id") for row in ROWS if row["split"] == split]
        write_csv(tmp_path / split / f"{split}.csv", rows)
    examples = read_intent_set(tmp_path)
    assert [example.id for example in examples] == ["test-0", "train-0", "train-1"]
    assert {e.text: (e.label, e.split) for e in examples} == {
        e.text: (e.label, e.split) for e in EXPECTED
    }


def test_other_names_of_columns(tmp_path):
    rows = [{"input_wo": r["text"], "intent": r["label"], "split": r["split"]} for r in ROWS]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    examples = read_intent_set(path, columns={"text": "input_wo", "label": "intent"})
    assert [(e.text, e.label) for e in examples] == [(e.text, e.label) for e in EXPECTED]
    with pytest.raises(MrlError, match=r"line 1: has no `label` \(it has `input_wo`"):
        read_intent_set(path, columns={"text": "input_wo"})


def test_recordings_by_path_and_inside_the_table(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(wav(300))
    rows = [
        {"id": 1, "audio": "clips/a.wav", "label": "x", "split": "train"},
        {"id": 2, "text": "only written", "label": "y", "split": "test"},
    ]
    (spoken, written) = read_intent_set(write_jsonl(tmp_path / "a.jsonl", rows))
    assert spoken.audio == tmp_path / "clips" / "a.wav"
    assert spoken.id == "1"
    assert spoken.text is None
    rows = [{"audio": {"bytes": wav(300), "path": "a.wav"}, "label": "x", "text": "ba"}]
    (inside,) = read_intent_set(write_hub(tmp_path / "b" / "test-00000-of-00001.parquet", rows))
    assert isinstance(inside.audio, bytes)
    assert (inside.text, inside.split, inside.id) == ("ba", "test", "test-0")
    clip = load_intent_audio(inside, 8000)
    assert clip.shape == (800,)
    assert clip.dtype == np.float32
    np.testing.assert_array_equal(clip, load_intent_audio(spoken, 8000))
    # What a digest tells apart is what a recording says, not where it lies.
    same = dataclasses.replace(spoken, audio=wav(300))
    assert digest_intent_set([same, written]) == digest_intent_set([spoken, written])
    changes = ({"audio": wav(301)}, {"label": "y"}, {"text": "a"}, {"split": "dev"}, {"id": "3"})
    others = {digest_intent_set([dataclasses.replace(spoken, **x), written]) for x in changes}
    assert len(others | {digest_intent_set([spoken, written])}) == len(changes) + 1
    with pytest.raises(MrlError, match="example '2': has no audio, only text"):
        load_intent_audio(written, 8000)


MISTAKES = {
    "no label": (lambda r: r[1].pop("label"), ("line 2", "has no `label`")),
    "empty label": (lambda r: r[1].update(label=""), ("line 2", "`label` is empty")),
    "blank label": (lambda r: r[2].update(label=" "), ("line 3", "`label` is empty")),
    "label is a list": (lambda r: r[0].update(label=["a"]), ("line 1", "expected text")),
    "no split": (lambda r: r[0].pop("split"), ("line 1", "has no `split`")),
    "neither": (lambda r: r[0].pop("text"), ("line 1", "neither `audio` nor `text`")),
    "same id": (lambda r: r[2].update(id="a"), ("line 3", "'a'", "line 1 as well")),
    "audio is a number": (lambda r: r[0].update(audio=3), ("line 1", "`audio` is 3")),
    "no recording": (lambda r: r[0].update(audio="no.wav"), ("do not exist: 1 (", "no.wav")),
    "nothing": (lambda r: r.clear(), ("a.jsonl", "has no rows")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_file_and_line(mistake, tmp_path):
    spoil, parts = MISTAKES[mistake]
    rows = [dict(row) for row in ROWS]
    spoil(rows)
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(MrlError) as message:
        read_intent_set(path)
    line = str(message.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert message.value.hint
    for part in parts:
        assert part in line


def test_mistakes_in_other_tables(tmp_path):
    path = tmp_path / "a.csv"
    for content, message in (
        (
            'text,label,split\n"two\nlines",x,train\nb,x\n',
            "line 4: has 2 columns, expected 3",
        ),
        ('text,label,split\n"two,x,train\n', "a.csv, line 2: is not CSV"),
        ("text,intent\na,b\n", r"has the header 'text,intent'.*columns label"),
        ("text,label,split\na,,train\n", "line 2: `label` is empty"),
    ):
        path.write_text(content)
        with pytest.raises(MrlError, match=message):
            read_intent_set(path)
    file = write_hub(tmp_path / "a.parquet", ROWS, ["card_arrival", "balance"])
    table = parquet.read_table(file)
    bad = table.set_column(2, "label", pyarrow.array([0, 1, 2]))
    parquet.write_table(bad, file)
    with pytest.raises(MrlError, match=r"a.parquet, row 3: `label` is 2, expected a class from 0"):
        read_intent_set(file)
    parquet.write_table(table.set_column(2, "label", pyarrow.array([0, -1, 1])), file)
    with pytest.raises(MrlError, match=r"row 2: has no `label`"):
        read_intent_set(file)
    with pytest.raises(MrlError, match="no such file or folder"):
        read_intent_set(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MrlError, match="holds no table of an intent set"):
        read_intent_set(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(MrlError, match=r"is of the kind .txt, expected a table"):
        read_intent_set(tmp_path / "a.txt")


def test_labels_have_texts_and_may_be_unseen(tmp_path):
    rows = [
        {"label": "a", "label_text": ["one", "two"], "unseen": True},
        {"label": 7, "label_text": "seven"},
        {"label": "b"},
    ]
    assert read_intent_labels(tmp_path) == {}
    write_jsonl(tmp_path / "labels.jsonl", rows)
    assert read_intent_labels(tmp_path) == {
        "a": IntentLabel(texts=("one", "two"), unseen=True),
        "7": IntentLabel(texts=("seven",)),
        "b": IntentLabel(),
    }
    table = write_jsonl(tmp_path / "test.jsonl", ROWS)
    assert read_intent_labels(table) == {}
    assert len(read_intent_set(tmp_path)) == len(ROWS)  # It is no table of examples.


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "b", "label_text": []}, r"line 2: `label_text` is \[\], expected a text or"),
        ({"label": "b", "label_text": ["one", ""]}, "line 2: `label_text` is empty"),
        ({"label": "b", "label_text": ["one", 3]}, "line 2: `label_text` is 3, expected text"),
        ({"label": "b", "label_text": None}, "line 2: `label_text` is None"),
        ({"label": "b", "unseen": "yes"}, "line 2: `unseen` is 'yes', expected true or false"),
        ({"label": "a"}, "line 2: the label 'a' was there before"),
        ({"label_text": "one"}, "line 2: has no `label`"),
    ],
)
def test_mistakes_in_labels(row, message, tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [{"label": "a"}, row])
    with pytest.raises(MrlError, match=message):
        read_intent_labels(tmp_path)
