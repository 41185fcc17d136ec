"""A late-fusion model small enough to train in a test, and batches for it."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import tiny_towers
from flax import nnx

from mrl_jax.core.batch import Batch
from mrl_jax.models.hubert import HubertConfig, HubertEncoder
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.nn.param_tree import freeze

SPEECH = HubertConfig(
    width=16,
    num_layers=2,
    num_heads=2,
    mlp_width=16,
    conv_channels=(8, 8),
    conv_kernels=(10, 3),
    conv_strides=(5, 4),
    position_kernel=4,
    position_groups=2,
)
TEXT = dataclasses.replace(
    tiny_towers.QWEN3,
    vocab_size=31,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    mlp_width=24,
    rope_theta=1e4,
)
DIMS = (16, 8, 4)


@functools.cache
def _drawn(seed: int) -> tuple[Any, Any]:
    # Kept for all callers, so never the tracers of one that happens to be traced.
    with jax.ensure_compile_time_eval():
        rngs = nnx.Rngs(seed)
        speech, text = HubertEncoder(SPEECH, rngs=rngs), Qwen3Encoder(TEXT, rngs=rngs)
        return nnx.split((freeze(speech), freeze(text), rngs))


def drawn_towers(seed: int = 0) -> tuple[HubertEncoder, Qwen3Encoder, nnx.Rngs]:
    """Frozen towers and what draws the next weights; new modules at each call."""
    graphdef, state = _drawn(seed)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x, state))  # Not the same variables.


def tiny_model(*, learn_temperature: bool = False, seed: int = 0) -> LateFusion:
    speech, text, rngs = drawn_towers(seed)
    config = LateFusionConfig(end_token=30, learn_temperature=learn_temperature)
    return LateFusion(speech, text, config=config, rngs=rngs)


def tiny_batch(rows: int = 8, *, samples: int = 480, seed: int = 0, tokens: int = 5) -> Batch:
    """Clips of different lengths; one document and one query twice, one row that fills up."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(samples // 2, samples + 1, rows).astype(np.int32)
    audible = np.arange(samples)[None, :] < lengths[:, None]
    document_mask = np.arange(tokens)[None, :] < rng.integers(2, tokens + 1, rows)[:, None]
    document_ids, query_ids = np.arange(rows, dtype=np.int32), np.arange(rows, dtype=np.int32)
    if rows > 4:
        document_ids[rows - 2] = document_ids[1]
        query_ids[4] = query_ids[0]
    valid = np.ones(rows, np.bool_)
    valid[2 % rows] = rows < 3
    return Batch(
        samples=(rng.normal(size=(rows, samples)) * audible).astype(np.float32),
        lengths=lengths,
        prompt=rng.integers(0, 30, (rows, 3)).astype(np.int32),
        prompt_mask=np.arange(3)[None, :] < rng.integers(0, 4, rows)[:, None],
        document=rng.integers(0, 30, (rows, tokens)).astype(np.int32),
        document_mask=document_mask,
        query_ids=query_ids,
        document_ids=document_ids,
        rows=valid,
    )
