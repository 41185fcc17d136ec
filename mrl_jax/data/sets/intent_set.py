"""Intent sets on disk: one table of recordings or texts, each with the name of its class.

A row has `label` and `audio`, `text` or both, and optionally `split`, `id`, `speaker` and
`label_text`, the label in words that a model can read. The table is
one .jsonl, .csv or .parquet file, or a folder: of parquet files as the Hugging Face hub has
them, or with .csv or .jsonl files whose names are splits. A row without `split` has that of
its file's name, as in all Parquet; a single .jsonl or .csv file must have the column. Labels
that are numbers get the names that the hub's Parquet has in its metadata.

A folder may have `labels.jsonl` as well: a row a label, with `label`, and optionally
`label_text`, a text or a list of them (a name, then paraphrases), and `unseen`, true where no
training may have used the label.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import load_audio_of
from mrl_jax.data.sets import tables

COLUMNS: Mapping[str, str] = MappingProxyType(
    {key: key for key in ("audio", "text", "label", "label_text", "split", "id", "speaker")}
)
"""Which column of a table holds which field; `read_intent_set` takes others."""


LABELS_FILE = "labels.jsonl"


@dataclass(frozen=True, kw_only=True)
class IntentLabel:
    """What a set says of a label.

    Attributes:
        texts: in words that a model can read: a name, then paraphrases; empty where unknown.
        unseen: whether no training may have used the label.
    """

    texts: tuple[str, ...] = ()
    unseen: bool = False


@dataclass(frozen=True, kw_only=True)
class IntentExample:
    """A recording (on disk, or its bytes) or text, and the class of intents that it expresses.

    Attributes:
        label_text: the label in words that a model can read, where the table has any.
    """

    audio: Path | bytes | None
    text: str | None
    label: str
    split: str
    id: str
    label_text: str | None = None
    speaker: str | None = None


@checked
def read_intent_set(
    path: str | Path, *, columns: Mapping[str, str] = COLUMNS
) -> tuple[IntentExample, ...]:
    """Read a set whole; recordings are looked for, but not decoded.

    Args:
        path: a table, or a folder of tables; paths of recordings are relative to the table.
        columns: names of columns that are not those of `COLUMNS`.

    Raises:
        MrlError: no such table, or an empty one; a row without `label`, without `split` or
            with neither `audio` nor `text`; an empty field; an id that is there twice; a
            label with two `label_text`s; a recording that does not exist; pyarrow is absent.
    """
    path = user_path(path)
    columns = {**COLUMNS, **columns}
    examples: list[IntentExample] = []
    places: dict[str, str] = {}
    counts: dict[str, int] = {}
    words: dict[str, str] = {}
    for file in _files(path):
        arrow = file.suffix in tables.ARROW
        default = tables.split_of(file) if path.is_dir() or arrow else None
        for where, row in tables.read_rows(file, header=(columns["label"],)):
            example = _example(where, row, file.parent, columns, default, counts)
            tables.check_new_id(places, example.id, where)
            before = example.label_text and words.setdefault(example.label, example.label_text)
            if before != example.label_text:
                here = f"the label {example.label!r} is {example.label_text!r} here"
                hint = f"give every label one `{columns['label_text']}`"
                raise MrlError(f"{here} and {before!r} before", where=where, hint=hint)
            examples.append(example)
    if not examples:
        raise MrlError("the intent set has no rows", where=path, hint="add rows to its table")
    absent = "the table names recordings that do not exist"
    tables.check_files((example.audio for example in examples), absent, path)
    return tuple(examples)


@checked
def read_intent_labels(path: str | Path) -> dict[str, IntentLabel]:
    """The rows of a set's `labels.jsonl` by label; empty where there is no such file.

    Args:
        path: the set, as for `read_intent_set`.

    Raises:
        MrlError: a row without `label`, or with one that was there before; texts that are an
            empty list, or no texts; `unseen` that is neither true nor false.
    """
    file = user_path(path) / LABELS_FILE
    labels: dict[str, IntentLabel] = {}
    if not file.is_file():
        return labels
    for where, row in tables.read_jsonl(file):
        name = tables.row_id(where, row, "label")
        if name in labels:
            problem = f"the label {name!r} was there before"
            raise MrlError(problem, where=where, hint="write one row a label")
        texts = row.get("label_text", ())
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list | tuple) or ("label_text" in row and not texts):
            problem = f"`label_text` is {texts!r:.60}, expected a text or a list of them"
            raise MrlError(problem, where=where, hint="write one text or more, or leave it out")
        for text in texts:
            tables.row_text(where, {"label_text": text}, "label_text", required=True)
        if not isinstance(unseen := row.get("unseen", False), bool):
            problem = f"`unseen` is {unseen!r:.60}, expected true or false"
            raise MrlError(problem, where=where, hint="correct it")
        labels[name] = IntentLabel(texts=tuple(texts), unseen=unseen)
    return labels


@checked
def load_intent_audio(example: IntentExample, sample_rate: int) -> HostArray:
    """The recording of an example: [S] float32, mono, `sample_rate` samples a second.

    Raises:
        MrlError: the example is only written; its recording cannot be decoded.
    """
    return load_audio_of(f"example {example.id!r}", example.audio, sample_rate)


@checked
def labels_of(examples: Iterable[IntentExample]) -> tuple[str, ...]:
    """The names of all classes, sorted."""
    return tuple(sorted({example.label for example in examples}))


def _example(
    where: str,
    row: Mapping[str, Any],
    folder: Path,
    columns: Mapping[str, str],
    default: str | None,
    counts: dict[str, int],
) -> IntentExample:
    # An empty cell of a CSV file is one that is not there.
    held = tables.filled_cells(row)
    label = tables.row_id(where, row, columns["label"])
    if columns["split"] not in held and default is not None:
        split = default
    else:
        split = tables.row_text(where, held, columns["split"], required=True)
    audio = tables.row_audio(where, held.get(columns["audio"]), folder)
    text = tables.row_text(where, held, columns["text"])
    if audio is None and text is None:
        problem = f"has neither `{columns['audio']}` nor `{columns['text']}`"
        raise MrlError(problem, where=where, hint="give it one of them")
    number = counts.get(split, 0)
    counts[split] = number + 1
    id_column, speaker = columns["id"], columns["speaker"]
    return IntentExample(
        audio=audio,
        text=text,
        label=label,
        split=split,
        label_text=tables.row_text(where, held, columns["label_text"]),
        id=tables.row_id(where, held, id_column) if id_column in held else f"{split}-{number}",
        speaker=tables.row_id(where, held, speaker) if speaker in held else None,
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MrlError("no such file or folder", where=path, hint="check the path")
    if saved := tables.saved_shards(path):
        return saved
    for ending in ("parquet", "csv", "jsonl"):
        here = sorted(path.glob(f"*.{ending}"))
        if ending == "parquet" and (here := here or tables.table_shards(path / "data")):
            return here
        below = sorted(path.glob(f"*/*.{ending}"))
        inside = [file for file in below if file.parent.name in tables.SPLITS]
        if files := [file for file in here if file.stem in tables.SPLITS] or inside:
            return files
    raise MrlError(
        "holds no table of an intent set (no .parquet file here, in data/ or in a folder a split, "
        f"and no .csv or .jsonl that is named {', '.join(tables.SPLITS)})",
        where=path,
        hint="pass the table itself, or the folder that holds it",
    )
