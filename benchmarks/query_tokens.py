"""How long one spoken query takes with half the speech tokens: both towers at full size.

    python benchmarks/query_tokens.py [--rounds 5]

One clip of 10 s, float32, random weights, through HuBERT-base, a head and Qwen3-0.6B: the linear
head (25 speech tokens a second), soft tokens with nothing dropped (25), and soft tokens with room
for 12 a second. Variants take turns, so that all meet the same machine.
"""

import argparse
import statistics
from typing import Any

import jax
import jax.numpy as jnp
from common import record, summarize, timed
from late_fusion_step import OurSide, Sizes

from mrl_jax.nn import param_tree

TARGET = "12 speech tokens a second in less time than 25"
VARIANTS = {
    "linear, 25 a second": ("linear", {}),
    "soft, 25 a second": ("soft", {"compress_blank": None, "max_tokens_per_second": 25.0}),
    "soft, 12 a second": ("soft", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="tiny towers: does it run?")
    args = parser.parse_args()
    sizes = Sizes(batch=1, seconds=1.0 if args.toy else 10.0, toy=args.toy)
    side = OurSide(sizes)
    samples = jnp.asarray(sizes.arrays()[0])
    calls = {name: query(side, samples, *variant) for name, variant in VARIANTS.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            times[name].append(timed(call))
    figures = {name: {"seconds": summarize(seconds)} for name, seconds in times.items()}
    slow, fast = (times[name] for name in ("soft, 25 a second", "soft, 12 a second"))
    ratio = statistics.median(a / b for a, b in zip(slow, fast, strict=True))
    print({name: round(x["seconds"]["median"], 3) for name, x in figures.items()}, ratio)
    if not args.toy:
        seconds = {"seconds": sizes.seconds}
        record("query_tokens", {"target": TARGET, **seconds, "ratio": ratio, "figures": figures})


def query(side: OurSide, samples: Any, head: str, changes: dict[str, Any]) -> Any:
    """A compiled query of one clip; it has run once."""
    taken = param_tree.split(side.model(head, **changes))
    lengths = jnp.full(len(samples), samples.shape[1], jnp.int32)
    weights = (taken.trained, taken.frozen)
    embed = jax.jit(lambda weights, *x: taken.rebuild(*weights).embed_speech(*x))

    def call() -> None:
        jax.block_until_ready(embed(weights, samples, lengths))

    call()
    return call


if __name__ == "__main__":
    main()
