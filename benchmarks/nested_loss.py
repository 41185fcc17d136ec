"""The nested loss beside one InfoNCE of full width: time, and memory at a larger batch.

python benchmarks/nested_loss.py

The rival is InfoNCE as anyone writes it: unit vectors, one product, logsumexp, differentiated by
JAX. `--gpu` sizes are the same; on an accelerator memory is what its allocator saw.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import record, summarize, timed

DIMS = (1024, 512, 256, 128)
TEMPERATURE = 0.05
KINDS = ("full width, plain", "full width, ours", "one by one", "nested", "nested with ids")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("--batch", 4096), ("--large", 16_384), ("--repeats", 7)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--memory-of", choices=("vectors", "plain", "kept", "blockwise"))
    args = parser.parse_args()
    if args.memory_of:
        print(json.dumps(peak(args.memory_of, args.large)))
        return
    memory = {
        kind: memory_of(kind, args.large) for kind in ("vectors", "plain", "kept", "blockwise")
    }
    import jax

    arrays = vectors(args.batch)
    runs = {kind: compiled(kind, arrays) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeats):
        for kind, run in runs.items():
            seconds[kind].append(timed(run))
    figures = {kind: summarize(values) for kind, values in seconds.items()}
    plain = figures["full width, plain"]["median"]
    own = {kind: memory[kind] - memory["vectors"] for kind in memory if kind != "vectors"}
    result = {
        "device": jax.devices()[0].device_kind,
        "target": "four dims at most 1.35 times one InfoNCE of full width on a CPU, 1.2 times on "
        "a GPU; blockwise at most a quarter of the kept form's peak at the larger batch",
        "inputs": {"batch": args.batch, "large": args.large, "dims": DIMS},
        "figures": {
            **figures,
            "over_plain": {kind: figures[kind]["median"] / plain for kind in KINDS},
            "bytes_beside_the_vectors": own,
            "blockwise_over_kept": own["blockwise"] / own["kept"],
        },
    }
    record("nested_loss", result)
    print(json.dumps(result["figures"], indent=1))


def vectors(batch: int) -> tuple[Any, Any, Any]:
    """Queries, documents and ids, no two alike."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 2)
    q, d = (jax.random.normal(key, (batch, DIMS[0])) for key in keys)
    return q, d, jnp.arange(batch)


def plain(q: Any, d: Any) -> Any:
    """InfoNCE at full width."""
    import jax
    import jax.numpy as jnp

    q, d = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (q, d))
    logits = jnp.matmul(q, d.T, precision="highest") / TEMPERATURE
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))


def compiled(kind: str, arrays: tuple[Any, Any, Any], **options: Any) -> Callable[[], Any]:
    """Loss and both gradients, compiled and run once."""
    import jax

    from mrl_jax.losses.matryoshka import matryoshka_infonce

    q, d, ids = arrays

    def loss(q: Any, d: Any) -> Any:
        if kind == "full width, plain":
            return plain(q, d)
        if kind == "one by one":
            return sum(plain(q[:, :dim], d[:, :dim]) for dim in DIMS) / len(DIMS)
        dims = DIMS[:1] if kind == "full width, ours" else DIMS
        ids_given = {"query_ids": ids, "document_ids": ids} if kind == "nested with ids" else {}
        losses = matryoshka_infonce(
            q, d, dims=dims, temperature=TEMPERATURE, **ids_given, **options
        )
        return losses.total

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def run() -> Any:
        return jax.block_until_ready(step(q, d))

    run()
    return run


def peak(kind: str, batch: int) -> int:
    """Peak bytes of this process, or of its accelerator, once it has differentiated."""
    import jax

    arrays = jax.block_until_ready(vectors(batch))
    if kind == "plain":
        compiled("full width, plain", arrays)
    elif kind != "vectors":
        compiled("nested", arrays, blockwise=kind == "blockwise")
    seen = jax.devices()[0].memory_stats()
    if seen:
        return int(seen["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of(kind: str, batch: int) -> int:
    """Peak memory of a fresh process."""
    command = [sys.executable, str(Path(__file__)), "--memory-of", kind, "--large", str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout))


if __name__ == "__main__":
    main()
