"""Matryoshka embeddings across speech and text, in JAX.

Names are imported when they are first used, so that `import mrl_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_jax.checkpoints.towers import load_hubert, load_hubert_ctc, load_qwen3
    from mrl_jax.core.errors import MrlError
    from mrl_jax.data.audio.decode import load_clip
    from mrl_jax.inference.embedder import Embedder
    from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
    from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
    from mrl_jax.models.hubert import HubertConfig, HubertEncoder
    from mrl_jax.models.inputs import pad_clips
    from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
    from mrl_jax.models.linen import to_linen
    from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
    from mrl_jax.nn.param_tree import Frozen

__version__ = "0.1.0"
_HOMES = {
    "CtcVocabulary": "mrl_jax.models.ctc",
    "DualEncoder": "mrl_jax.models.dual_encoder",
    "DualEncoderConfig": "mrl_jax.models.dual_encoder",
    "Embedder": "mrl_jax.inference.embedder",
    "Frozen": "mrl_jax.nn.param_tree",
    "HubertConfig": "mrl_jax.models.hubert",
    "HubertCtc": "mrl_jax.models.ctc",
    "HubertEncoder": "mrl_jax.models.hubert",
    "LateFusion": "mrl_jax.models.late_fusion",
    "LateFusionConfig": "mrl_jax.models.late_fusion",
    "MrlError": "mrl_jax.core.errors",
    "Qwen3Config": "mrl_jax.models.qwen3",
    "Qwen3Encoder": "mrl_jax.models.qwen3",
    "load_clip": "mrl_jax.data.audio.decode",
    "load_hubert": "mrl_jax.checkpoints.towers",
    "load_hubert_ctc": "mrl_jax.checkpoints.towers",
    "load_qwen3": "mrl_jax.checkpoints.towers",
    "pad_clips": "mrl_jax.models.inputs",
    "to_linen": "mrl_jax.models.linen",
}
__all__ = [
    "CtcVocabulary",
    "DualEncoder",
    "DualEncoderConfig",
    "Embedder",
    "Frozen",
    "HubertConfig",
    "HubertCtc",
    "HubertEncoder",
    "LateFusion",
    "LateFusionConfig",
    "MrlError",
    "Qwen3Config",
    "Qwen3Encoder",
    "load_clip",
    "load_hubert",
    "load_hubert_ctc",
    "load_qwen3",
    "pad_clips",
    "to_linen",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mrl_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
