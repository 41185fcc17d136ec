"""Published sets by name: where they are, or how they are fetched, and in which form.

`kallaama`, `fleurs:wo-fr` (recordings of Wolof, answered in French), `fleurs:fr-wo`,
`fleurs:wo-fr:text` (written questions), `fleurs:wo-fr:train` (its training split, to fit a
rotation on for instance) and any other pair of FLEURS are retrieval sets;
`wolbanking77:text`, `wolbanking77:text:5k` and `wolbanking77:audio` are intent sets.
`NAME@FOLDER` reads a folder that holds the published files; without it they are downloaded
from the Hugging Face hub. WolBanking77 is published on Kaggle and must be fetched by hand:
its texts are `full/train/train.csv`, `full/test/test.csv` and the same under `5k_split`, with
columns `input_wo` and `label`; its recordings `train.parquet` and `test.parquet`
(github.com/abdoukarim/wolbanking77).

A new set is a function and its entry in `NAMED_SETS`.
"""

import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_text
from mrl_jax.data.sets.fleurs import LANGUAGES, load_fleurs
from mrl_jax.data.sets.hub import download_dataset
from mrl_jax.data.sets.intent_set import IntentExample, read_intent_set
from mrl_jax.data.sets.issues import refuse_issues
from mrl_jax.data.sets.retrieval_set import RetrievalSet, read_retrieval_set
from mrl_jax.data.sets.tables import read_rows

KALLAAMA_HUB_ID = "soynade-research/Kallaama-retrieval-eval"
FLEURS_SPLITS = ("train", "validation", "test")
WOLBANKING77_PAGE = "kaggle.com/datasets/abdoukarimkandji/wolbanking77"
LABEL_COLUMNS = ("label", "intent", "intent_class", "class")
"""Names that the column of classes may have in the recordings of WolBanking77."""

Kind = Literal["retrieval", "intent"]


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """One published set, or several that have the first word of their names in common.

    Attributes:
        kind: what `load` returns.
        names: those that messages list.
        load: takes the name as the user gave it, its words after the first, and the folder
            after the @, and returns a `RetrievalSet` or a tuple of `IntentExample`; None where
            there is no set of these words.
        more_names: others, which a mistyped one may have been.
        note: what there is, for the error about a name that there is not.
    """

    kind: Kind
    names: Sequence[str]
    load: Callable[[str, Sequence[str], Path | None], Any]
    more_names: Sequence[str] = ()
    note: str = "no such set"


@checked
def load_retrieval_set(
    data: str | Path, *, strict: bool = False, split: str | None = None
) -> RetrievalSet:
    """A retrieval set from its folder, or by a name such as `fleurs:wo-fr@FOLDER`.

    Args:
        data: folder or name.
        strict: refuse a set with issues; see `read_retrieval_set`.
        split: of the judgements of a folder; names have one.

    Raises:
        MrlError: no such folder or name; the hub cannot be reached; a set that
            `read_retrieval_set` or `load_fleurs` refuses; a name and a split.
    """
    named = _load_named(data, "retrieval")
    if named is None:
        return read_retrieval_set(data, strict=strict, split=split)
    if split is not None:
        hint = "leave --qrels-split out, or name the folder"
        raise MrlError("is a set by name, whose judgements have no splits", where=data, hint=hint)
    if strict:
        refuse_issues(named.issues, data)
    return named


@checked
def load_intent_set(data: str | Path) -> tuple[IntentExample, ...]:
    """An intent set from its table or folder, or by a name such as `wolbanking77:text@FOLDER`.

    Raises:
        MrlError: no such table, folder or name; a set that `read_intent_set` refuses.
    """
    named = _load_named(data, "intent")
    return read_intent_set(data) if named is None else named


def _load_named(data: str | Path, kind: Kind) -> Any:
    """The set of a name; None for a path."""
    named = split_name(data)
    if named is None:
        return None
    name, arguments, folder = named
    entry = NAMED_SETS[name]
    if entry.kind == "intent" and kind == "retrieval":
        problem = "is an intent set, and has no queries and documents"
        raise MrlError(problem, where=data, hint="measure it with `mrl-jax eval intent`")
    loaded = entry.load(str(data), arguments, folder) if entry.kind == kind else None
    if loaded is None:
        raise _unknown(data, _names(kind))
    return loaded


def _kallaama(data: str, arguments: Sequence[str], folder: Path | None) -> RetrievalSet | None:
    if arguments:
        return None
    if folder is None:
        hint = "check the network, or name a folder that holds it: `kallaama@FOLDER`"
        patterns = ["queries*", "corpus*", "qrels*", "data/*"]
        folder = download_dataset(KALLAAMA_HUB_ID, patterns=patterns, hint=hint)
    return read_retrieval_set(folder)


def _fleurs(data: str, arguments: Sequence[str], folder: Path | None) -> RetrievalSet | None:
    pair, *words = arguments or ("",)
    languages = pair.split("-")
    splits = [word for word in words if word in FLEURS_SPLITS]
    forms = [word for word in words if word not in FLEURS_SPLITS]
    if len(languages) != 2 or forms not in ([], ["text"], ["speech"]) or len(splits) > 1:
        return None
    split = (*splits, "test")[0]
    pairs = load_fleurs(*languages, folder=folder, speech=forms != ["text"], split=split)
    if pairs.dropped_queries or pairs.dropped_documents:
        warnings.warn(
            f"{data}: left out {pairs.dropped_queries} queries and "
            f"{pairs.dropped_documents} documents without a counterpart",
            stacklevel=4,
        )
    return pairs.data


def _wolbanking77(
    data: str, arguments: Sequence[str], folder: Path | None
) -> tuple[IntentExample, ...] | None:
    kinds = {(): "full", ("text",): "full", ("text", "full"): "full", ("text", "5k"): "5k_split"}
    words = tuple(arguments)
    if words != ("audio",) and words not in kinds:
        return None
    if folder is None:
        hint = f"download it from {WOLBANKING77_PAGE} and name its folder: `{data}@FOLDER`"
        raise MrlError("is published on Kaggle, which wants a login", where=data, hint=hint)
    if words == ("audio",):
        table = _inside(folder, "train.parquet", "test.parquet")
        columns = next((row for _, row in read_rows(table / "test.parquet")), {})
        label = next((name for name in LABEL_COLUMNS if name in columns), LABEL_COLUMNS[0])
        return read_intent_set(table, columns={"label": label})
    kind = kinds[words]
    table = _inside(folder, f"{kind}/train/train.csv", f"{kind}/test/test.csv") / kind
    return read_intent_set(table, columns={"text": "input_wo"})


NAMED_SETS: Mapping[str, NamedSet] = MappingProxyType(
    {
        "kallaama": NamedSet(kind="retrieval", names=("kallaama",), load=_kallaama),
        "fleurs": NamedSet(
            kind="retrieval",
            names=("fleurs:wo-fr", "fleurs:fr-wo", "fleurs:wo-fr:text"),
            load=_fleurs,
            more_names=("fleurs:wo-en", "fleurs:fr-en", "fleurs:en-wo", "fleurs:en-fr"),
            note=f"FLEURS has {len(LANGUAGES)} languages",
        ),
        "wolbanking77": NamedSet(
            kind="intent",
            names=("wolbanking77:text", "wolbanking77:text:5k", "wolbanking77:audio"),
            load=_wolbanking77,
        ),
    }
)
"""By the first word of the name."""


def split_name(data: str | Path) -> tuple[str, list[str], Path | None] | None:
    """The first word of a set's name, the others, and its folder; None for a path.

    Raises:
        MrlError: a word that is neither a path that exists nor a known name.
    """
    text = user_text(data)
    head, at, folder = text.partition("@")
    name, *arguments = head.split(":")
    if name in NAMED_SETS:
        # A folder that happens to have the name of a set is meant where nothing more is said.
        if not at and not arguments and Path(text).exists():
            return None
        if at and not Path(folder).is_dir():
            problem = f"no such folder as {folder!r}"
            raise MrlError(problem, where=text, hint="check the path after the @")
        return name, arguments, Path(folder) if at else None
    if not Path(text).exists() and re.fullmatch(r"[\w:.-]+(@.*)?", text):
        raise _unknown(data, (*_names("retrieval"), *_names("intent")))
    return None


def _names(kind: Kind) -> tuple[str, ...]:
    entries = (entry for entry in NAMED_SETS.values() if entry.kind == kind)
    return tuple(name for entry in entries for name in entry.names)


def _unknown(data: str | Path, names: Sequence[str]) -> MrlError:
    """With the name that was probably meant."""
    head, at, folder = str(data).partition("@")
    more = [name for named in NAMED_SETS.values() for name in named.more_names]
    near = difflib.get_close_matches(head, (*names, *more), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}{at}{folder}`" if near else f"expected {', '.join(names)}"
    notes = [named.note for word, named in NAMED_SETS.items() if head.startswith(word)]
    problem = f"neither a folder nor the name of a set here ({(*notes, 'no such set')[0]})"
    return MrlError(problem, where=data, hint=f"{hint}, or a folder")


def _inside(folder: Path, *files: str) -> Path:
    """The folder itself, or the one below it, that holds all the files."""
    for place in (folder, *sorted(folder.iterdir())):
        if all((place / file).is_file() for file in files):
            return place
    raise MrlError(
        f"holds neither {' and '.join(files)} nor a folder with them",
        where=folder,
        hint=f"name the folder as it was downloaded from {WOLBANKING77_PAGE}",
    )
