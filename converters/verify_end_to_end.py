"""The original library on raw clips and raw texts: what stands before and behind the encoder.

Each function compares what it can, and says in words what it cannot.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.checkpoints.towers import TowerInfo, load_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.data.text.text_recipe import DOCUMENT_PROMPTS, read_text_recipe
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens

from .checkpoints import read_json
from .lora import folder_without_adapter
from .preprocessor import read_preprocessor
from .sentence_files import read_sentence_modules
from .sentence_folder import sentence_folder

TEXTS = (
    "What is the capital of Senegal?",
    "Fan lañuy jaaye dugub? Ci marse bi.",
    "Où vend-on le mil : au marché, ou chez Awa ?",
    "42 kg, 3,5 %\n«neuf» - ok!",
    "سوق",
    "a",
)
LONGEST = 512
"""Tokens up to which a text is run to see where it is cut."""
UNLIMITED = 1 << 20
RANDOM_ROWS = 200


@dataclasses.dataclass(frozen=True)
class Count:
    """How many outcomes differ, and the first that does, as "ours, expected theirs"."""

    differ: int
    of: int
    first: str = ""


@dataclasses.dataclass
class Outcomes:
    """What was compared beside the states of the encoder.

    Attributes:
        arrays: ours and theirs by name.
        counts: of ids and words, which are equal or not.
        not_covered: what was not compared, and why.
    """

    arrays: dict[str, tuple[HostArray, HostArray]] = dataclasses.field(default_factory=dict)
    counts: dict[str, Count] = dataclasses.field(default_factory=dict)
    not_covered: list[str] = dataclasses.field(default_factory=list)


def count_differences(ours: Sequence[Any], theirs: Sequence[Any]) -> Count:
    """How many of some outcomes, in the same order, differ."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    first = f"{pairs[0][0]!r}, expected {pairs[0][1]!r}" if pairs else ""
    return Count(len(pairs), len(ours), first)


def own_samples(
    folder: Path, clips: Sequence[HostArray], sample_rate: int, outcomes: Outcomes
) -> list[HostArray] | None:
    """What the checkpoint's own feature extractor makes of raw clips; None where it has none.

    Raises:
        MrlError: transformers cannot load or run it.
    """
    import transformers

    if read_preprocessor(folder) is None:
        outcomes.not_covered.append(
            "how clips are read: the checkpoint has no feature extractor (normalised clips at "
            "16 kHz are assumed)"
        )
        return None
    with original_library("transformers cannot run the feature extractor", where=folder):
        extractor = transformers.AutoFeatureExtractor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        read = [extractor(clip, sampling_rate=sample_rate).input_values[0] for clip in clips]
    return [np.asarray(samples, np.float32) for samples in read]


def compare_words(
    info: TowerInfo,
    folder: Path,
    logits: tuple[HostArray, HostArray],
    frames: Sequence[int],
    outcomes: Outcomes,
) -> None:
    """The words of a recogniser by its own decoder: of the clips, and of random rows of ids.

    Args:
        info: of the tower.
        folder: of the checkpoint.
        logits: ours and theirs, [T, V], of all clips one after the other.
        frames: of each clip.
    """
    import transformers

    vocabulary = info.vocabulary
    if vocabulary is None or vocabulary.byte_level:
        lacking = "transformers' tokenizer joins no bytes" if vocabulary else "no vocab.json"
        outcomes.not_covered.append(f"words: {lacking}")
        return
    language = info.naming.get("language")
    options = {} if language is None else {"target_lang": language}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers raises many kinds.
        reason = first_line(error)
        outcomes.not_covered.append(f"words: transformers cannot load the tokenizer ({reason})")
        return
    ends = np.cumsum(frames)[:-1]
    best = [np.split(np.argmax(rows, axis=-1), ends) for rows in logits]
    decode = tokenizer.decode
    outcomes.counts["words of the clips"] = count_differences(
        [vocabulary.decode(ids) for ids in best[0]], [decode(ids.tolist()) for ids in best[1]]
    )
    rng = np.random.default_rng(0)
    size = len(vocabulary.tokens)
    rows = [
        np.repeat(rng.integers(0, size, 16), rng.integers(1, 4, 16)) for _ in range(RANDOM_ROWS)
    ]
    outcomes.counts["words of random outputs"] = count_differences(
        [vocabulary.decode(ids) for ids in rows], [decode(ids.tolist()) for ids in rows]
    )


def compare_texts(
    tower: Path, info: TowerInfo, folder: Path, as_tower: Callable[[Any], None], outcomes: Outcomes
) -> None:
    """Raw texts by the checkpoint's own tokenizer and its own pooling.

    Args:
        tower: folder of the tower.
        info: of the tower.
        folder: of the checkpoint.
        as_tower: gives a torch module of the checkpoint the values that the tower's weights have.
    """
    for place in (folder, tower):
        if not (place / "tokenizer.json").is_file():
            outcomes.not_covered.append(f"texts: {place} has no tokenizer.json")
            return
    modules = read_sentence_modules(folder, info.config.width)
    ours = TextTokenizer(tower, max_tokens=UNLIMITED)
    _compare_tokens(ours, folder, complete=modules is not None, outcomes=outcomes)
    if modules is None:
        outcomes.not_covered.append(
            "pooling: the checkpoint says nothing of it (that of the last token is assumed)"
        )
    elif importlib.util.find_spec("sentence_transformers") is None:
        outcomes.not_covered.append("pooling: sentence-transformers is not installed")
    else:
        _compare_vectors(tower, folder, modules.normalized, as_tower, outcomes)


def _compare_tokens(
    ours: TextTokenizer, folder: Path, *, complete: bool, outcomes: Outcomes
) -> None:
    """Ids of the texts themselves, and of what stands around them.

    Where the checkpoint is not `complete`, its tokenizer may leave the end token to its user.
    """
    import transformers

    try:
        theirs = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        plain = [theirs(text, add_special_tokens=False).input_ids for text in TEXTS]
        whole = [theirs(text).input_ids for text in TEXTS]
    except Exception as error:  # transformers raises many kinds.
        reason = first_line(error)
        outcomes.not_covered.append(f"tokens: transformers cannot load the tokenizer ({reason})")
        return
    outcomes.counts["tokens of texts"] = count_differences(ours.encode_prompts(TEXTS), plain)
    published = TextTokenizer(folder)
    if not complete and not published.adds_own_tokens:
        outcomes.not_covered.append(
            "what stands behind a text: the checkpoint's tokenizer adds nothing (its padding "
            "token is assumed)"
        )
        whole = [[*ids, *published.suffix] for ids in plain]
    ours_around = [_around([*ours.prefix, *ids, *ours.suffix], ids) for ids in plain]
    theirs_around = [_around(ids, body) for ids, body in zip(whole, plain, strict=True)]
    outcomes.counts["tokens around texts"] = count_differences(ours_around, theirs_around)


def _around(ids: Sequence[int], body: Sequence[int]) -> tuple[list[int], list[int]]:
    """What stands before and behind the tokens of a text."""
    for start in range(len(ids) - len(body) + 1):
        if list(ids[start : start + len(body)]) == list(body):
            return list(ids[:start]), list(ids[start + len(body) :])
    return list(ids), []


def _compare_vectors(
    tower: Path,
    folder: Path,
    normalized: bool,
    as_tower: Callable[[Any], None],
    outcomes: Outcomes,
) -> None:
    """Vectors of documents and of queries, of raw texts, with their prompts."""
    root = sentence_folder(folder)
    recipe = read_text_recipe(folder, root)
    texts: list[str] = [*TEXTS]
    limit = recipe.max_tokens
    if limit is not None and limit <= LONGEST:
        texts.append("a b " * limit)
    elif limit is not None and limit < UNLIMITED:
        outcomes.not_covered.append(f"texts of more than {limit} tokens")
    model = _sentence_transformer(root)
    as_tower(model)
    embed = _embedder(tower, normalized)
    tokenizer = TextTokenizer(tower, max_tokens=UNLIMITED)
    saved = _saved_prompts(root)
    document = next((name for name in DOCUMENT_PROMPTS if name in saved), None)
    expected = model.encode(texts, prompt_name=document)
    outcomes.arrays["text vectors"] = (embed(tokenizer.encode_documents(texts)), expected)
    if recipe.query_prompt:
        asked = tokenizer.encode([recipe.query_prompt + text for text in texts])
        expected = model.encode(texts, prompt_name="query" if "query" in saved else None)
        outcomes.arrays["query vectors"] = (embed(asked), expected)


def _saved_prompts(folder: Path) -> dict[str, Any]:
    path = folder / "config_sentence_transformers.json"
    return (read_json(path).get("prompts") or {}) if path.is_file() else {}


def _sentence_transformer(folder: Path) -> Any:
    """The original model in float32, with its own tokenizer and pooling.

    Raises:
        MrlError: sentence-transformers cannot load it.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    problem = "sentence-transformers cannot load the checkpoint"
    with (
        original_library(problem, where=folder),
        warnings.catch_warnings(),
        folder_without_adapter(folder) as place,
    ):
        warnings.simplefilter("ignore")
        return SentenceTransformer(
            str(place),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32, "attn_implementation": "eager"},
        ).eval()


@contextlib.contextmanager
def original_library(problem: str, *, where: Path) -> Iterator[None]:
    """What the checkpoint's own library raises, of whatever kind, as one error.

    Raises:
        MrlError: says `problem`, and the first line of what was raised.
    """
    try:
        yield
    except Exception as error:
        hint = "check that its own library reads it"
        raise MrlError(f"{problem} ({first_line(error)})", where=where, hint=hint) from error


def _embedder(tower: Path, normalized: bool) -> Callable[[Sequence[Sequence[int]]], HostArray]:
    """(token ids of texts) to the tower's vectors, of unit length where the original's are."""
    graphdef, state = nnx.split(load_tower(tower, dtype=jnp.float32))

    @functools.partial(jax.jit)
    def run(state: Any, ids: Any, mask: Any) -> jax.Array:
        module = nnx.merge(graphdef, state)
        return module.embed(ids, mask) if normalized else module.pool(ids, mask)

    return lambda tokens: np.asarray(run(state, *pad_tokens(tokens)))
