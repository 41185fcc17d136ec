"""How many of a text tower's places are padding, and how many packing would leave.

    python benchmarks/padding.py --texts FOLDER --clips FILE

FOLDER: wol.txt and fra.txt of NTREX-128. FILE: table.jsonl of mboshi, whose rows have `text` and
`seconds`. Batches are those that training makes: pairs of texts by `PairPlan`, clips with
documents by `BatchPlan`, padded as there. Packed: whole texts, the longest first, each put into
the first row that has room. Nothing is trained, and no tower is run.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.data.batches.plan import BatchPlan, sizes_by_bucket
from mrl_jax.data.batches.text_plan import PairPlan
from mrl_jax.data.batches.text_shapes import padded_tokens
from mrl_jax.data.text.train_tokenizer import new_tokenizer

BATCHES = (16, 64, 128)
EPOCHS, PIECES, ROW = 4, 4000, 128
"""Epochs that are counted; pieces of the tokenizer; places of a packed row, at the least."""
RATE, TOKENS_A_SECOND, BUCKETS = 16_000, 25, 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=user_path, required=True, help="folder of NTREX-128")
    parser.add_argument("--clips", type=user_path, required=True, help="table.jsonl of mboshi")
    args = parser.parse_args(argv)
    wolof, french = (
        (args.texts / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in ("wol", "fra")
    )
    clips = [json.loads(line) for line in args.clips.read_text(encoding="utf-8").splitlines()]
    documents = [row["text"] for row in clips]
    samples = np.asarray([int(row["seconds"] * RATE) for row in clips])
    of_wolof, of_french, of_documents = token_counts(wolof, french, documents)
    figures: dict[str, Any] = {"pairs of texts": {}, "clips and documents": {}}
    for size in BATCHES:
        figures["pairs of texts"][str(size)] = text_step(of_wolof, of_french, size)
        figures["clips and documents"][str(size)] = speech_step(samples, of_documents, size)
    print(json.dumps(figures, indent=1))
    inputs = {
        "pairs": f"{len(wolof):,} sentences of Wolof and French news (NTREX-128)",
        "clips": f"{len(clips):,} clips of Mboshi with French sentences",
        "tokenizer": f"{PIECES:,} byte pieces, learned from them",
        "row": ROW,
    }
    target = "packing where it saves 15 % of a step's places in the text tower"
    record("padding", {"target": target, "inputs": inputs, "figures": figures})


def token_counts(*groups: Sequence[str]) -> list[np.ndarray]:
    """Tokens of each text of each group, end token included."""
    from tokenizers import Tokenizer

    files = new_tokenizer([*groups[0], *groups[1], *groups[2]], units="pieces", max_pieces=PIECES)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"])
    return [
        np.asarray([len(one.ids) + 1 for one in tokenizer.encode_batch(list(texts))])
        for texts in groups
    ]


def text_step(queries: np.ndarray, documents: np.ndarray, size: int) -> dict[str, float]:
    """Of both towers' places in a step of the text stage."""
    plan = PairPlan(queries + documents, batch_size=size, seed=0)
    tokens = padded = packed = 0
    for step in range(EPOCHS * plan.batches_per_epoch):
        for lengths in (queries[plan(step)], documents[plan(step)]):
            tokens += int(lengths.sum())
            padded += size * padded_tokens(int(lengths.max()))
            packed += packed_places(lengths)
    return shares(tokens, padded, packed, padded)


def speech_step(samples: np.ndarray, documents: np.ndarray, size: int) -> dict[str, float]:
    """Of the documents' places, and what packing them saves of those of speech and documents."""
    groups = np.zeros(len(samples), np.int64)
    plan = BatchPlan(samples, groups, batch_size=size, num_buckets=BUCKETS, seed=0, draws=None)
    sizes = sizes_by_bucket(documents, plan)
    tokens = padded = packed = speech = 0
    for step in range(EPOCHS * (len(samples) // size)):
        bucket, rows = plan(step)
        tokens += int(documents[rows].sum())
        padded += size * sizes[bucket]
        packed += packed_places(documents[rows])
        speech += int(size * plan.sizes[bucket] / RATE * TOKENS_A_SECOND)
    return shares(tokens, padded, packed, padded + speech)


def packed_places(lengths: np.ndarray) -> int:
    """Places of rows into which whole texts are put, the longest first, where there is room."""
    row = max(ROW, padded_tokens(int(lengths.max())))
    room: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        place = next((i for i, left in enumerate(room) if left >= length), None)
        if place is None:
            room.append(row - length)
        else:
            room[place] -= length
    return len(room) * row


def shares(tokens: int, padded: int, packed: int, all_places: int) -> dict[str, float]:
    return {
        "padding": 1 - tokens / padded,
        "padding_packed": 1 - tokens / packed,
        "saved": (padded - packed) / all_places,
    }


if __name__ == "__main__":
    main()
