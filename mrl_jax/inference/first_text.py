"""A model's first text: its program is compiled while the weights are read."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrl_jax.checkpoints.models import ModelInfo, abstract_model
from mrl_jax.core.arguments import checked
from mrl_jax.core.distributed import batch_sharded, replicated
from mrl_jax.core.paths import referenced_path
from mrl_jax.data.text.prompts import check_one_prompt
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.encoder import Encoder
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree


@checked
@dataclasses.dataclass(frozen=True)
class FirstText:
    """A text, and what is put before it.

    Attributes:
        text: of whose length the program is.
        task, prompt: as `EmbedOptions`; neither for a document.

    Raises:
        MrlError: both task and prompt.
    """

    text: str
    _: dataclasses.KW_ONLY
    task: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        check_one_prompt(self.task, self.prompt)


@contextlib.contextmanager
def compiling(
    folder: Path,
    info: ModelInfo,
    first: FirstText | None,
    *,
    held: Mapping[str, Any],
    **limits: Any,
) -> Iterator[Encoder | None]:
    """While the block loads the model, compile what embeds `first`; None for nothing.

    Args:
        folder, info: the model, and its description.
        first: the text.
        held: dtype and int8 of the weights, as for `load_model`.
        limits: max_seconds and batch_size of an `Encoder`.

    Yields:
        the encoder whose program it is, with shapes in place of weights.

    Raises:
        MrlError: of the descriptions; no tokenizer; the task has no prompt.
    """
    if first is None:
        yield None
        return
    model, tokenizer = abstract_model(folder, info, **held), model_tokenizer(folder, info)
    rows = shared_rows()
    options: dict[str, Any] = {"prompts": info.prompts, "sharding": rows, **limits}
    encoder = Encoder(_placed(model, rows), model, tokenizer, **options)
    tasks = None if first.task is None else [first.task]
    prompts = None if first.prompt is None else [first.prompt]
    with ThreadPoolExecutor(1) as pool:
        compiled = pool.submit(encoder.compile_text, first.text, tasks=tasks, prompts=prompts)
        yield encoder
        compiled.result()


def shared_rows() -> NamedSharding | None:
    """How a machine's devices share the rows of a batch; None where there is one alone."""
    devices = jax.local_devices()
    return batch_sharded(devices) if len(devices) > 1 else None


def model_tokenizer(folder: Path, info: ModelInfo) -> TextTokenizer:
    """The tokenizer of a model's text tower."""
    tower = referenced_path(folder, info.text.path)
    return TextTokenizer(tower, max_tokens=info.max_text_tokens)


def _placed(model: TwoTowers, rows: NamedSharding | None) -> param_tree.Split:
    """An abstract model taken apart, its shapes placed as the weights will be."""
    split = param_tree.split(model)
    everywhere = None if rows is None else replicated(rows)
    # On one device the towers are put there; the head's arrays go with any others.
    towers = jnp.zeros(()).sharding if rows is None else everywhere

    def place(tree: Any, sharding: jax.sharding.Sharding | None) -> Any:
        def one(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(one, tree)

    frozen = {
        path: place(leaf, everywhere if path.startswith("head.") else towers)
        for path, leaf in split.frozen.items()
    }
    return param_tree.Split(place(split.trained, everywhere), frozen, split.rebuild)
