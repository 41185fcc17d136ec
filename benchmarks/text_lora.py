"""What the text stage holds and sends on more devices: LoRA beside the whole tower.

    python benchmarks/text_lora.py

The full-size step of the text stage (Qwen3-0.6B in bfloat16) is compiled for simulated devices
from shapes alone, by pmap and over a mesh, and not run; collectives are read from the compiled
program, beside the bytes that the loss needs.
"""

import argparse
import json
from typing import Any

from collectives import collectives
from common import record, run_worker

ROWS, TOKENS, WIDTH, RANK = 4, 32, 1024, 16
TRAINED = {"LoRA": RANK, "whole tower": 0}
CASES = [("LoRA", by, devices) for by in ("pmap", "mesh") for devices in (1, 2, 4)]
CASES.append(("whole tower", "pmap", 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=3, metavar=("TRAINED", "PARALLEL", "DEVICES"))
    args = parser.parse_args()
    if args.worker:
        trained, parallel, devices = args.worker
        print(json.dumps(counted(TRAINED[trained], parallel, int(devices))))
        return
    figures: dict[str, Any] = {}
    for trained, parallel, devices in CASES:
        name = f"{trained}, {parallel}, {devices}"
        figures[name] = run_worker(__file__, trained, parallel, str(devices), devices=int(devices))
        print(name, figures[name], flush=True)
    record(
        "text_lora",
        {
            "target": "the factors' gradient once, and what the loss needs of every row's document",
            "inputs": {"rows_a_device": ROWS, "tokens": TOKENS, "rank": RANK},
            "figures": figures,
        },
    )


def counted(rank: int, parallel: Any, devices: int) -> dict[str, Any]:
    """Collectives and memory of one compiled step, and the bytes that it could not do without."""
    program, trained = compile_step(rank, parallel, devices)
    memory = program.memory_analysis()
    # Documents are gathered, and as they are trained here their gradients go back.
    documents = 2 * ROWS * devices * WIDTH * 4
    return {
        "collectives": collectives(program.as_text()),
        "trained_bytes": trained,
        "needed_bytes": trained + documents if devices > 1 else 0,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
    }


def compile_step(rank: int, parallel: Any, devices: int) -> tuple[Any, int]:
    """The compiled step in bfloat16 from shapes alone, and its trained bytes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mrl_jax.data.batches.text import TextBatch
    from mrl_jax.data.batches.token_noise import VectorNoise
    from mrl_jax.losses.config import LossConfig
    from mrl_jax.models.lora import LoraConfig, factor_shapes
    from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3
    from mrl_jax.nn import param_tree
    from mrl_jax.training.devices import Devices
    from mrl_jax.training.optim import OptimConfig, make_optimizer
    from mrl_jax.training.state import init_state
    from mrl_jax.training.text_tower.step import make_text_step, tower_rebuilder

    place, low = Devices(parallel, jax.devices()[:devices]), jnp.bfloat16
    whole = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())
    config, lora = Qwen3Config.embedding_0_6b(), LoraConfig(rank=rank)

    def shaped(shape: Any, dtype: Any, sharding: Any = whole) -> Any:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

    leaves = param_tree.flat_weights(abstract_qwen3(config))
    tower = {path: leaf.shape for path, leaf in leaves.items()}
    factors = factor_shapes(config, lora) if rank else tower
    trained = param_tree.nest({path: shaped(x, jnp.float32) for path, x in factors.items()})
    frozen = {path: shaped(shape, low) for path, shape in tower.items()} if rank else {}
    optimizer = make_optimizer(OptimConfig(), 100)
    state = jax.eval_shape(lambda t: init_state(t, optimizer), trained)
    state = jax.tree.map(lambda x: shaped(x.shape, x.dtype), state)
    rows = ROWS * devices
    side = np.zeros((rows, TOKENS), np.int32), np.ones((rows, TOKENS), bool)
    ids = np.arange(rows, dtype=np.int32)
    batch = TextBatch(
        query=side[0],
        query_mask=side[1],
        document=side[0],
        document_mask=side[1],
        query_ids=ids,
        document_ids=ids,
        noise=VectorNoise(),
    )
    placed = place.put_batch(batch)
    rebuild = tower_rebuilder(config, low, remat=False, lora=lora)
    options: dict[str, Any] = {"dtype": low, "axis_name": place.axis_name}
    step: Any = place.compile(make_text_step(rebuild, optimizer, LossConfig(), **options))
    size = sum(4 * int(np.prod(shape)) for shape in factors.values())
    return step.lower(state, frozen, placed).compile(), size


if __name__ == "__main__":
    main()
