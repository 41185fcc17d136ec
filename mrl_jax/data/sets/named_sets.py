"""Published sets by name: where they lie, or how they are fetched, and in which form.

`kallaama`, `fleurs:wo-fr` (recordings of Wolof, answered in French), `fleurs:fr-wo`,
`fleurs:wo-fr:text` (written questions), `fleurs:wo-fr:train` (its training split, to fit a
rotation on for instance) and any other pair of FLEURS are retrieval sets;
`wolbanking77:text`, `wolbanking77:text:5k` and `wolbanking77:audio` are intent sets.
`NAME@FOLDER` reads a folder that holds the published files; without it they are downloaded
from the Hugging Face hub. WolBanking77 is published on Kaggle and must be fetched by hand:
its texts are `full/train/train.csv`, `full/test/test.csv` and the same under `5k_split`, with
columns `input_wo` and `label`; its recordings `train.parquet` and `test.parquet`
(github.com/abdoukarim/wolbanking77).
"""

import difflib
import re
import warnings
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.fleurs import LANGUAGES, load_fleurs
from mrl_jax.data.sets.hub import download_dataset
from mrl_jax.data.sets.intent_set import IntentExample, read_intent_set
from mrl_jax.data.sets.retrieval_set import RetrievalSet, read_retrieval_set
from mrl_jax.data.sets.tables import read_rows

KALLAAMA_HUB_ID = "soynade-research/Kallaama-retrieval-eval"


RETRIEVAL_NAMES = ("kallaama", "fleurs:wo-fr", "fleurs:fr-wo", "fleurs:wo-fr:text")


INTENT_NAMES = ("wolbanking77:text", "wolbanking77:text:5k", "wolbanking77:audio")


FLEURS_SPLITS = ("train", "validation", "test")


WOLBANKING77_PAGE = "kaggle.com/datasets/abdoukarimkandji/wolbanking77"


LABEL_COLUMNS = ("label", "intent", "intent_class", "class")
"""What the column of classes may be called in the recordings of WolBanking77."""


def load_retrieval_set(data: str | Path) -> RetrievalSet:
    """A retrieval set from its folder, or by a name such as `fleurs:wo-fr@FOLDER`.

    Raises:
        MrlError: no such folder or name; a folder without the expected tables; a set that
            `read_retrieval_set` or `load_fleurs` refuses; the hub cannot be reached.
    """
    named = split_name(data)
    if named is None:
        return read_retrieval_set(data)
    name, arguments, folder = named
    if name == "kallaama" and not arguments:
        if folder is None:
            hint = "check the network, or name a folder that holds it: `kallaama@FOLDER`"
            patterns = ["queries*", "corpus*", "qrels*", "data/*"]
            folder = download_dataset(KALLAAMA_HUB_ID, patterns=patterns, hint=hint)
        return read_retrieval_set(folder)
    if name == "fleurs" and arguments:
        languages = arguments[0].split("-")
        splits = [word for word in arguments[1:] if word in FLEURS_SPLITS]
        kinds = [word for word in arguments[1:] if word not in FLEURS_SPLITS]
        if len(languages) == 2 and kinds in ([], ["text"], ["speech"]) and len(splits) < 2:
            found = load_fleurs(
                *languages,
                folder=folder,
                speech=kinds != ["text"],
                split=splits[0] if splits else "test",
            )
            if found.dropped_queries or found.dropped_documents:
                warnings.warn(
                    f"{data}: left out {found.dropped_queries} queries and "
                    f"{found.dropped_documents} documents without a counterpart",
                    stacklevel=2,
                )
            return found.data
    if name == "wolbanking77":
        raise MrlError(
            "is an intent set, and has no queries and documents",
            where=data,
            hint="measure it with `eval.py intent`",
        )
    raise _unknown(data, RETRIEVAL_NAMES)


def load_intent_set(data: str | Path) -> tuple[IntentExample, ...]:
    """An intent set from its table or folder, or by a name such as `wolbanking77:text@FOLDER`.

    Raises:
        MrlError: no such table, folder or name; a folder without the expected tables; a
            set that `read_intent_set` refuses.
    """
    named = split_name(data)
    if named is None:
        return read_intent_set(data)
    name, arguments, folder = named
    kinds = {(): "full", ("text",): "full", ("text", "full"): "full", ("text", "5k"): "5k_split"}
    if name != "wolbanking77" or (arguments != ["audio"] and tuple(arguments) not in kinds):
        raise _unknown(data, INTENT_NAMES)
    if folder is None:
        raise MrlError(
            "is published on Kaggle, which wants a login",
            where=data,
            hint=f"download it from {WOLBANKING77_PAGE} and name its folder: `{data}@FOLDER`",
        )
    if arguments == ["audio"]:
        table = _inside(folder, "train.parquet", "test.parquet")
        columns = next((row for _, row in read_rows(table / "test.parquet")), {})
        label = next((name for name in LABEL_COLUMNS if name in columns), LABEL_COLUMNS[0])
        return read_intent_set(table, columns={"label": label})
    kind = kinds[tuple(arguments)]
    table = _inside(folder, f"{kind}/train/train.csv", f"{kind}/test/test.csv") / kind
    return read_intent_set(table, columns={"text": "input_wo"})


def split_name(data: str | Path) -> tuple[str, list[str], Path | None] | None:
    """The name of a set, what is said of it, and its folder; None for a path.

    Raises:
        MrlError: a word that is neither a path that exists nor a known name.
    """
    text = str(data)
    head, at, folder = text.partition("@")
    name, *arguments = head.split(":")
    if name in {known.partition(":")[0] for known in (*RETRIEVAL_NAMES, *INTENT_NAMES)}:
        # A folder that happens to have the name of a set is meant where nothing more is said.
        if not at and not arguments and Path(text).exists():
            return None
        if at and not Path(folder).is_dir():
            problem = f"no such folder as {folder!r}"
            raise MrlError(problem, where=text, hint="check the path after the @")
        return name, arguments, Path(folder) if at else None
    if not Path(text).exists() and re.fullmatch(r"[\w:.-]+(@.*)?", text):
        raise _unknown(data, (*RETRIEVAL_NAMES, *INTENT_NAMES))
    return None


def _unknown(data: str | Path, names: tuple[str, ...]) -> MrlError:
    """With the name that was probably meant."""
    head, at, folder = str(data).partition("@")
    pairs = [f"fleurs:{a}-{b}" for a in ("wo", "fr", "en") for b in ("wo", "fr", "en") if a != b]
    near = difflib.get_close_matches(head, dict.fromkeys((*names, *pairs)), n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}{at}{folder}`" if near else f"expected {', '.join(names)}"
    known = f"FLEURS has {len(LANGUAGES)} languages" if head.startswith("fleurs") else "no such set"
    return MrlError(
        f"neither a folder nor the name of a set here ({known})",
        where=data,
        hint=f"{hint}, or a folder",
    )


def _inside(folder: Path, *files: str) -> Path:
    """The folder itself, or the one below it, that holds all the files."""
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *below):
        if all((place / file).is_file() for file in files):
            return place
    raise MrlError(
        f"holds neither {' and '.join(files)} nor a folder with them",
        where=folder,
        hint=f"name the folder as it was downloaded from {WOLBANKING77_PAGE}",
    )
