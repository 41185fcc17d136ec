"""A step of the text stage with texts packed and padded, in turn, on real sentences.

    python benchmarks/packing.py --texts FOLDER      FOLDER: wol.txt and fra.txt of NTREX-128

A tower of middling size from random weights, float32. Steps of one epoch, evenly spaced, are taken
by both forms one after the other, each compiled before; and places are counted over the whole
epoch, also for the smaller groups that an accumulation packs.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import record, summarize, timed
from flax import nnx

from mrl_jax.core.paths import user_path
from mrl_jax.data.batches.packing import PackedPairSource
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer, tokenizer_size
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state
from mrl_jax.training.text_tower.step import make_text_step, tower_rebuilder

PIECES, GROUPS = 4000, (8, 16, 32, 64, 128)
"""Pieces of the tokenizer; pairs of a group whose places are counted."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=user_path, required=True, help="folder of NTREX-128")
    parser.add_argument("--batch", type=int, default=64, help="pairs of a step that is timed")
    parser.add_argument("--steps", type=int, default=6, help="steps that are timed")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--count-only", action="store_true", help="count places, time nothing")
    args = parser.parse_args(argv)
    wolof, french = (
        (args.texts / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in ("wol", "fra")
    )
    pairs = [TextPair(query=q, document=d) for q, d in zip(wolof, french, strict=True)]
    files = new_tokenizer([*wolof, *french], units="pieces", max_pieces=PIECES)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        tokenizer = TextTokenizer(folder)
    figures: dict[str, Any] = {"places": {}}
    for size in GROUPS:
        figures["places"][str(size)] = places(source_of(pairs, tokenizer, size))
    print(json.dumps(figures, indent=1))
    if args.count_only:
        return
    config = tower_config(tokenizer_size(files), args.width, args.layers)
    figures["step"] = times(source_of(pairs, tokenizer, args.batch), config, args.steps)
    print(json.dumps(figures["step"], indent=1))
    inputs = {
        "pairs": f"{len(pairs):,} sentences of Wolof and French news (NTREX-128)",
        "tokenizer": f"{PIECES:,} byte pieces, learned from them",
        "tower": f"{args.layers} layers of width {args.width}, float32",
        "batch": args.batch,
    }
    record("packing", {"target": "a packed step is faster", "inputs": inputs, "figures": figures})


def source_of(pairs: Sequence[TextPair], tokenizer: TextTokenizer, size: int) -> TextPairSource:
    return TextPairSource(pairs, tokenizer, TextBatchConfig(batch_size=size), seed=0)


def tower_config(vocab_size: int, width: int, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab_size,
        width=width,
        num_layers=layers,
        num_heads=width // 64,
        num_kv_heads=width // 128,
        head_width=64,
        mlp_width=3 * width,
        rope_theta=1e4,
        norm_epsilon=1e-6,
    )


def places(source: TextPairSource) -> dict[str, int]:
    """Tokens of an epoch, and places of both forms."""
    packed, counts = PackedPairSource(source, (1, 1)), {"tokens": 0, "padded": 0, "packed": 0}
    for step in range(source.batches_per_epoch):
        batch = source(step)
        counts["tokens"] += int(batch.query_mask.sum() + batch.document_mask.sum())
        counts["padded"] += batch.query.size + batch.document.size
        counts["packed"] += packed(step).tokens.size
    return {
        **counts,
        "row": packed.row,
        "shapes": len(packed.shapes),
        "padded_shapes": len(source.shapes),
    }


def times(source: TextPairSource, config: Qwen3Config, steps: int) -> dict[str, Any]:
    """Seconds of steps of both forms, their ratio, and how far losses are apart."""
    tower = Qwen3Encoder(config, rngs=nnx.Rngs(0))
    place, optimizer = Devices("pmap", jax.devices()[:1]), make_optimizer(OptimConfig(), 100)
    step = place.compile(
        make_text_step(
            tower_rebuilder(config, jnp.float32, remat=False),
            optimizer,
            LossConfig(dims=(config.width, config.width // 4)),
            axis_name=place.axis_name,
        )
    )
    state = place.replicate(init_state(param_tree.split(tower).trained, optimizer))
    forms = {"padded": source, "packed": PackedPairSource(source, (1, 1))}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    apart = 0.0
    for number in np.linspace(0, source.batches_per_epoch - 1, steps).astype(int).tolist():
        losses = []
        for name, batches in forms.items():
            batch = place.put_batch(batches(number))

            def once(batch: Any = batch) -> Any:
                # Its state is donated: each call gets a copy, and all begin with the same.
                copy = jax.tree.map(jnp.copy, state)
                return jax.block_until_ready(step(copy, {}, batch)[1])

            losses.append(float(once()["loss"]))
            seconds[name].append(min(timed(once) for _ in range(2)))
        apart = max(apart, abs(losses[0] / losses[1] - 1))
        print(number, {name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
    ratio = np.divide(seconds["padded"], seconds["packed"]).tolist()
    return {
        **{name: summarize(values) for name, values in seconds.items()},
        "padded_over_packed": {
            **summarize(ratio),
            "total": sum(seconds["padded"]) / sum(seconds["packed"]),
        },
        "losses_apart": apart,
    }


if __name__ == "__main__":
    main()
