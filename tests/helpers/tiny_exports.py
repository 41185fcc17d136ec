"""A tiny trained model of each kind of head, over speech towers of different variants, to export.

Every weight is random, biases and norms too, so that a wrong or missing one shows.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_run import PROMPTS, WORDS, clip_of, save_tiny, text_of

from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.checkpoints.towers import load_hubert, load_hubert_ctc, load_qwen3
from mrl_jax.demo.towers import make_tokenizer, text_config
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.init import initial_recogniser, initial_tower
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.models.soft_ctc import SoftCtc, SoftCtcConfig
from mrl_jax.models.wavlm import WavLMConfig
from mrl_jax.nn import param_tree

DIMS = (32, 16, 8)
BASE: dict[str, Any] = {
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_width": 48,
    "conv_channels": (16,) * 3,
    "conv_kernels": (10, 8, 4),
    "conv_strides": (5, 8, 8),
    "position_kernel": 16,
    "position_groups": 4,
}
LARGE = {**BASE, "feature_norm": "layer", "pre_norm": True, "conv_bias": True}
SPEECH = {
    "base": HubertConfig(**BASE),
    "large": HubertConfig(**LARGE),
    "batch norm": HubertConfig(**BASE, position_norm="batch", normalize_clips=False),
    "adapters": HubertConfig(**LARGE, adapter_width=8),
    "wavlm": WavLMConfig(**BASE, position_buckets=16, position_distance=40),
}
CHARACTERS = ("<pad>", "|", "a", "b", "c", "d")


def randomized(module: Any, seed: int, kinds: Any = nnx.Variable) -> Any:
    """The module with noise on its leaves of some kinds, but for kernels of stacked layers."""
    rng = np.random.default_rng(seed)
    for leaf in param_tree.flat_weights(module).values():
        value = np.asarray(leaf.get_value())
        noise = 0.2 * rng.standard_normal(value.shape, dtype=np.float32)
        if isinstance(leaf, kinds) and value.ndim < 3:
            leaf.set_value(jnp.asarray(value + noise))
    return module


def make_towers(folder: Path, speech: str) -> tuple[Path, Path]:
    """Folders of a speech tower of a variant and of a text tower."""
    files = make_tokenizer([text_of((i,)) for i in range(len(WORDS))] + [" \nquery:"])
    size = len(json.loads(files["tokenizer.json"])["model"]["vocab"])
    text = randomized(initial_tower(text_config(size, width=32, num_layers=2), 1), 2)
    recogniser = randomized(initial_recogniser(SPEECH[speech], CtcVocabulary(CHARACTERS), 3), 4)
    # Outputs that are far from even: runs of several tokens and of blanks.
    recogniser.lm_head.kernel[...] *= 6.0
    save_text_tower(folder / "text", text, files)
    save_speech_tower(folder / "speech", recogniser)
    return folder / "speech", folder / "text"


def late_fusion(speech: Path, text: Path, **options: Any) -> Any:
    config = LateFusionConfig(end_token=0, **options)
    return LateFusion(load_hubert(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(3))


def soft_ctc(speech: Path, text: Path, **options: Any) -> Any:
    outputs = ((), (3,), (4, 5), (6,), (7,), (8,))
    usual: dict[str, Any] = {"residual": "frames", "lora_rank": 2, "rest": 1}
    config = SoftCtcConfig(end_token=0, outputs=outputs, **(usual | options))
    model = SoftCtc(load_hubert_ctc(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(3))
    randomized(model.head, 5, nnx.Param)
    if model.head.lora is not None:
        for name, leaf in param_tree.flat_weights(model.head.lora).items():
            drawn = np.random.default_rng(len(name)).standard_normal(leaf.shape)
            leaf.set_value(jnp.asarray(0.2 * drawn, jnp.float32))
    return model


def dual_encoder(speech: Path, text: Path, **options: Any) -> Any:
    config = DualEncoderConfig(**(options or {"dims": DIMS}))
    model = DualEncoder(load_hubert(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(4))
    randomized(model.head, 6, nnx.Param)
    return model


@dataclasses.dataclass(frozen=True)
class Case:
    """How a model is made: its kind, its speech tower's variant, its head."""

    kind: str
    speech: str
    make: Callable[..., Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    "late fusion": Case("late_fusion", "base", late_fusion),
    "soft tokens": Case("soft_ctc", "wavlm", soft_ctc),
    "soft pairs": Case(
        "soft_ctc",
        "large",
        soft_ctc,
        {"compress_blank": None, "residual": "logits", "lora_rank": 0, "rest": None},
    ),
    "dual encoder": Case("dual_encoder", "batch norm", dual_encoder),
    "nested dual encoder": Case("dual_encoder", "adapters", dual_encoder, {"nested": True}),
}


def make_case(name: str, root: Path) -> Path:
    """The folder of a trained model."""
    case = CASES[name]
    speech, text = make_towers(root / "towers", case.speech)
    model = case.make(speech, text, **case.options)
    return save_tiny(root / "model", model, case.kind, speech, text, DIMS, PROMPTS)


def make_clips() -> list[np.ndarray]:
    """Clips of very different lengths at 16 kHz."""
    clips = [clip_of((1, 2, 0, 4), 0), clip_of((3,), 1)[:1700], clip_of((0, 4), 2)]
    return [clip.astype(np.float32) for clip in clips]


def make_texts() -> list[str]:
    return [text_of((1, 2)), text_of((3,)), "", text_of((0, 1, 2, 3, 4))]
