"""A text tower of 4B on one device, in bfloat16 and with its layers in eight bits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gpu_parts import PEAK, Figures
from gpu_parts.timing import compile_seconds, program_bytes, seconds_a_call
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import is_layer_kernel, quantize

TEXTS, TOKENS = 256, 128


def measure(*, toy: bool) -> Figures:
    config = Qwen3Config.embedding_4b()
    texts, tokens = TEXTS, TOKENS
    if toy:
        small = {"vocab_size": 64, "width": 32, "num_layers": 2, "num_heads": 4}
        small |= {"num_kv_heads": 2, "head_width": 8, "mlp_width": 64}
        config, texts, tokens = dataclasses.replace(config, **small), 4, 8
    options: dict[str, Any] = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    make = nnx.jit(lambda: Qwen3Encoder(config, **options, rngs=nnx.Rngs(0)))
    taken = param_tree.split(param_tree.freeze(make()))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, config.vocab_size, (texts, tokens)))
    mask = jnp.ones(ids.shape, jnp.bool_)
    embed = jax.jit(lambda weights, ids, mask: taken.rebuild({}, weights).embed(ids, mask))
    weights, vectors = taken.frozen, {}
    for kind in ("bfloat16", "int8"):
        if kind == "int8":
            # One after the other, and each kernel freed as it is replaced.
            pack = jax.jit(quantize)
            for path in filter(is_layer_kernel, list(weights)):
                weights[path] = jax.block_until_ready(pack(weights.pop(path)))
        compiled, took = compile_seconds(embed, weights, ids, mask)
        vectors[kind] = np.asarray(compiled(weights, ids, mask))
        seconds = seconds_a_call(compiled, weights, ids, mask, calls=3, rounds=3)
        flops = 2 * layer_parameters(config) * texts * tokens
        yield (
            f"4B in {kind}",
            {
                "seconds": seconds,
                "texts_a_second": texts / seconds["median"],
                "utilisation": flops / seconds["median"] / PEAK,
                "weight_bytes": sum(x.nbytes for x in jax.tree.leaves(weights)),
                "program_bytes": program_bytes(compiled),
                "compile": took,
                "cosine_to_bfloat16": float(
                    np.mean(np.sum(vectors[kind] * vectors["bfloat16"], 1))
                ),
            },
        )


def layer_parameters(config: Qwen3Config) -> int:
    """Weights of all layers' products."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    layer = config.width * (heads * config.head_width + 3 * config.mlp_width)
    return config.num_layers * layer
