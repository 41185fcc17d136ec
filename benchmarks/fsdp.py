"""What one of several devices holds of a large tower: replicated, and sharded by `train.fsdp`.

    python benchmarks/fsdp.py [--devices 4]

The training step over a Qwen3-Embedding-4B or 8B architecture in bfloat16 is compiled for simulated
devices from shapes alone; bytes are those of the compiled program: arguments, and temporaries
on top of them; collectives as the program runs them. Nothing is run.
"""

import argparse
import json
from typing import Any

from collectives import collectives
from common import record, run_worker
from late_fusion_step import Sizes, fusion_model

ROWS, SECONDS, TOKENS = 16, 10, 64
MORE_ROWS, MORE_TOKENS = 64, 256
TOWERS = ("embedding_0_6b", "embedding_4b", "embedding_8b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--worker", nargs=2, metavar=("TOWER", "FSDP"))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(compiled(args.worker[0], int(args.worker[1]), args.devices)))
        return
    figures: dict[str, Any] = {}
    for tower in TOWERS:
        for fsdp in (1, args.devices):
            words = tower, str(fsdp), "--devices", str(args.devices)
            counts = run_worker(__file__, *words, devices=args.devices)
            name = "replicated" if fsdp == 1 else f"fsdp {fsdp}"
            figures[f"{tower}, {name}"] = counts
            print(f"{tower}, {name}", figures[f"{tower}, {name}"], flush=True)
    inputs = {"devices": args.devices, "rows_a_device": ROWS, "seconds": SECONDS, "tokens": TOKENS}
    target = "weights of one device: a fraction of them; what is sent the same at any batch"
    record("fsdp", {"target": target, "inputs": inputs, "figures": figures})


def compiled(tower: str, fsdp: int, devices: int) -> dict[str, Any]:
    """Bytes of one device, and collectives, of a step whose weights `fsdp` devices share."""
    sizes = Sizes(batch=ROWS * devices, seconds=SECONDS, tokens=TOKENS)
    program, _ = compile_step(tower, "mesh", devices, sizes, fsdp=fsdp, remat=True)
    memory = program.memory_analysis()
    sizes = Sizes(batch=MORE_ROWS * devices, seconds=SECONDS, tokens=MORE_TOKENS)
    larger, _ = compile_step(tower, "mesh", devices, sizes, fsdp=fsdp, remat=True)
    return {
        "collectives_of_larger_batch": collectives(larger.as_text()),
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "collectives": collectives(program.as_text()),
    }


def compile_step(
    tower: str,
    parallel: Any,
    devices: int,
    sizes: Sizes,
    *,
    fsdp: int = 1,
    remat: bool = False,
    head: str = "linear",
) -> tuple[Any, int]:
    """The compiled step of late fusion in bfloat16 from shapes alone, and its trained bytes.

    The `head` is "linear" or "soft", see `late_fusion_step.fusion_model`.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from mrl_jax.core.batch import Batch
    from mrl_jax.losses.config import LossConfig
    from mrl_jax.models.ctc import HubertCtc
    from mrl_jax.models.hubert import HubertConfig
    from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
    from mrl_jax.nn import param_tree
    from mrl_jax.training.contrastive.step import make_train_step
    from mrl_jax.training.devices import Devices
    from mrl_jax.training.optim import OptimConfig, make_optimizer
    from mrl_jax.training.state import init_state

    place = Devices(parallel, jax.devices()[:devices], fsdp=fsdp)
    low = jnp.bfloat16

    def model() -> Any:
        rngs = nnx.Rngs(0)
        config = getattr(Qwen3Config, tower)()
        text = Qwen3Encoder(config, dtype=low, param_dtype=low, remat=remat, rngs=rngs)
        options: dict[str, Any] = {"dtype": low, "param_dtype": low, "rngs": rngs}
        recogniser = HubertCtc(HubertConfig.base(), 32, **options)
        return fusion_model(head, param_tree.freeze(recogniser), param_tree.freeze(text))

    split = param_tree.split(nnx.eval_shape(model))
    optimizer = make_optimizer(OptimConfig(), 100)
    whole = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())

    def shaped(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    frozen = jax.tree.map(lambda x: shaped(x, place.frozen_sharding(x)), split.frozen)
    state = jax.eval_shape(lambda t: init_state(t, optimizer), split.trained)
    state = jax.tree.map(lambda x: shaped(x, whole), state)
    rows, tokens = sizes.batch, sizes.tokens
    batch = Batch(
        samples=np.zeros((rows, int(16_000 * sizes.seconds)), np.float32),
        lengths=np.zeros(rows, np.int32),
        prompt=np.zeros((rows, 0), np.int32),
        prompt_mask=np.zeros((rows, 0), bool),
        document=np.zeros((rows, tokens), np.int32),
        document_mask=np.zeros((rows, tokens), bool),
        query_ids=np.zeros(rows, np.int32),
        document_ids=np.zeros(rows, np.int32),
        rows=np.zeros(rows, bool),
    )
    if parallel == "pmap":
        batch = place.put_batch(batch)
    else:
        batch = jax.tree.map(lambda x: shaped(x, place.rows), batch)
    step: Any = place.compile(
        make_train_step(split.rebuild, optimizer, LossConfig(), axis_name=place.axis_name)
    )
    trained = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(split.trained))
    return step.lower(state, frozen, batch).compile(), trained


if __name__ == "__main__":
    main()
