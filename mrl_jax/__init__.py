"""Matryoshka embeddings across speech and text, in JAX.

Names are imported when they are first used, so that `import mrl_jax` costs nothing.
"""

from typing import TYPE_CHECKING

from mrl_jax.core.lazy import homes_of, lazy_getattr

if TYPE_CHECKING:
    from mrl_jax.checkpoints.towers import (
        load_hubert,
        load_hubert_ctc,
        load_qwen3,
        load_speech_tower,
    )
    from mrl_jax.core.errors import MrlError
    from mrl_jax.data.audio.decode import load_clip
    from mrl_jax.inference.embedder import Embedder
    from mrl_jax.inference.first_text import FirstText
    from mrl_jax.inference.index.search_index import SearchIndex
    from mrl_jax.models.ctc import CtcVocabulary, HubertCtc
    from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
    from mrl_jax.models.hubert import HubertEncoder
    from mrl_jax.models.hubert_config import HubertConfig
    from mrl_jax.models.inputs import pad_clips
    from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
    from mrl_jax.models.linen import to_linen
    from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
    from mrl_jax.models.wavlm import WavLMConfig, WavLMEncoder
    from mrl_jax.nn.param_tree import Frozen

__version__ = "0.1.0"
_HOMES = homes_of(
    __name__,
    {
        "checkpoints.towers": "load_hubert load_hubert_ctc load_qwen3 load_speech_tower",
        "core.errors": "MrlError",
        "data.audio.decode": "load_clip",
        "inference.embedder": "Embedder",
        "inference.first_text": "FirstText",
        "inference.index.search_index": "SearchIndex",
        "models.ctc": "CtcVocabulary HubertCtc",
        "models.dual_encoder": "DualEncoder DualEncoderConfig",
        "models.hubert": "HubertEncoder",
        "models.hubert_config": "HubertConfig",
        "models.inputs": "pad_clips",
        "models.late_fusion": "LateFusion LateFusionConfig",
        "models.linen": "to_linen",
        "models.qwen3": "Qwen3Config Qwen3Encoder",
        "models.wavlm": "WavLMConfig WavLMEncoder",
        "nn.param_tree": "Frozen",
    },
)
__all__ = [
    "CtcVocabulary",
    "DualEncoder",
    "DualEncoderConfig",
    "Embedder",
    "FirstText",
    "Frozen",
    "HubertConfig",
    "HubertCtc",
    "HubertEncoder",
    "LateFusion",
    "LateFusionConfig",
    "MrlError",
    "Qwen3Config",
    "Qwen3Encoder",
    "SearchIndex",
    "WavLMConfig",
    "WavLMEncoder",
    "load_clip",
    "load_hubert",
    "load_hubert_ctc",
    "load_qwen3",
    "load_speech_tower",
    "pad_clips",
    "to_linen",
]
__getattr__ = lazy_getattr(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
