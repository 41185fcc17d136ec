"""A soft-token model small enough for a test: a recogniser whose outputs are far from even."""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx
from tiny_fusion import SPEECH, drawn_towers

from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.soft_ctc import SoftCtc, SoftCtcConfig
from mrl_jax.nn.param_tree import freeze

OUTPUTS = ((3,), (7, 8), (), (5,), (29,), (11,))
BLANK, REST, END = 2, 1, 30
EVERY_FRAME = float(SPEECH.sample_rate / SPEECH.frame_samples)
"""As many tokens a second as there are frames: room for all."""


@functools.cache
def _drawn(pre_norm: bool, sharpness: float) -> tuple[Any, Any]:
    with jax.ensure_compile_time_eval():
        config = dataclasses.replace(SPEECH, pre_norm=pre_norm)
        recogniser = HubertCtc(config, len(OUTPUTS), rngs=nnx.Rngs(3))
        recogniser.lm_head.kernel[...] *= sharpness
        return nnx.split(freeze(recogniser))


def drawn_recogniser(*, pre_norm: bool = False, sharpness: float = 4.0) -> HubertCtc:
    """A frozen recogniser; new modules at each call."""
    graphdef, state = _drawn(pre_norm, sharpness)
    return nnx.merge(graphdef, jax.tree.map(lambda x: x, state))


def soft_config(**options: Any) -> SoftCtcConfig:
    """Room for all tokens, and half of the frames dropped, if the options do not say otherwise."""
    usual = {
        "end_token": END,
        "outputs": OUTPUTS,
        "blank": BLANK,
        "rest": REST,
        "compress_blank": 0.5,
        "max_tokens_per_second": EVERY_FRAME,
    }
    return SoftCtcConfig(**(usual | options))


def soft_model(*, pre_norm: bool = False, sharpness: float = 4.0, **options: Any) -> SoftCtc:
    recogniser = drawn_recogniser(pre_norm=pre_norm, sharpness=sharpness)
    return SoftCtc(recogniser, drawn_towers()[1], config=soft_config(**options), rngs=nnx.Rngs(4))
