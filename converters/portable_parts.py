"""What every exported form of a trained model is made of: its modules, tensors and settings."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrl_jax.checkpoints.models import (
    MODEL_FILE,
    ModelInfo,
    load_model,
    read_model_info,
    read_towers,
)
from mrl_jax.checkpoints.towers import TOWER_FILE, TowerInfo
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import referenced_path
from mrl_jax.data.text.prompts import query_prompt
from mrl_jax.data.text.text_recipe import read_text_recipe
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.index.description import INDEX_FILE
from mrl_jax.inference.search.vectors import check_dim
from mrl_jax.models.fusion import FusionModel
from mrl_jax.models.soft_ctc import SoftCtc
from mrl_jax.models.two_towers import TwoTowers

FORMAT = 1
SETTINGS = "mrl_jax_export.json"
"""The file of settings that every exported folder has."""
PROGRAM_INPUTS: dict[str, dict[str, Any]] = {
    "samples": {
        "dtype": "float32",
        "shape": ["batch", "samples"],
        "is": "mono clips at sample_rate, from -1 to 1, padded with zeros",
    },
    "lengths": {
        "dtype": "int64",
        "shape": ["batch"],
        "is": "samples of each clip, min_samples or more",
    },
    "prompt_ids": {
        "dtype": "int64",
        "shape": ["batch", "prompt"],
        "is": "token ids before the speech, without special tokens",
    },
    "prompt_mask": {
        "dtype": "bool",
        "shape": ["batch", "prompt"],
        "is": "true at tokens of the prompt; all false without one",
    },
    "input_ids": {
        "dtype": "int64",
        "shape": ["batch", "tokens"],
        "is": "token ids of a text, between tokens.prefix and tokens.suffix",
    },
    "attention_mask": {
        "dtype": "bool",
        "shape": ["batch", "tokens"],
        "is": "true at tokens of the text",
    },
}
"""What the programs of an export take."""
OTHER_FOLDERS = {
    TOWER_FILE: ("is a tower", "write it back with `mrl-jax convert export`"),
    INDEX_FILE: ("is an index", "pass the model that it was made with"),
}
"""What else a user may pass in place of a model, by its file, and what to do with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Portable:
    """A trained model as it is exported, in float32.

    Attributes:
        folder: of the model.
        info: its description.
        towers: tower.json of both, "speech" and "text".
        model: the Flax module.
        tokenizer: of the text tower.
        dim: width of the exported vectors.
    """

    folder: Path
    info: ModelInfo
    towers: Mapping[str, TowerInfo]
    model: TwoTowers
    tokenizer: TextTokenizer
    dim: int

    def place(self, tower: str) -> Path:
        """The folder of a tower, "speech" or "text"."""
        return referenced_path(self.folder, getattr(self.info, tower).path)

    @property
    def prompts(self) -> dict[str, str]:
        """What stands before a query of each task, word for word."""
        return {task: query_prompt(text) for task, text in self.info.prompts.items() if task}

    @property
    def speech_prompt(self) -> str:
        """What stands before speech without a task."""
        return query_prompt(self.info.prompts.get("", ""))

    @property
    def trained_dims(self) -> list[int]:
        """Dims up to the exported one; with separate dims a prefix of a vector is no embedding."""
        dims = [self.dim] if self.model.separate_dims else self.info.dims
        return [dim for dim in dims if dim <= self.dim]

    @property
    def reads_prompts(self) -> bool:
        """Whether speech follows the tokens of a prompt."""
        return isinstance(self.model, FusionModel)

    @property
    def counts_lost(self) -> bool:
        """Whether a clip can have more speech tokens than there is room for."""
        return isinstance(self.model, SoftCtc) and self.model.may_lose

    def settings(self, form: str) -> dict[str, Any]:
        """What a program outside of this library has to know of the model."""
        config = self.model.speech.config
        return {
            "format": FORMAT,
            "form": form,
            "kind": self.info.kind,
            "digest": self.info.digest,
            "dim": self.dim,
            "trained_dims": self.trained_dims,
            "padding": self.info.padding,
            "sample_rate": config.sample_rate,
            "normalize_clips": config.normalize_clips,
            "min_samples": self.model.min_samples,
            "end_token": self.model.end_token,
            "prompts": self.prompts,
            "speech_prompt": self.speech_prompt,
            "document_prompt": self.tokenizer.document_prompt,
            "tokens": {
                "prefix": list(self.tokenizer.prefix),
                "suffix": list(self.tokenizer.suffix),
                "max_tokens": self.tokenizer.max_tokens,
                "keeps_tail": read_text_recipe(self.place("text")).keeps_tail,
                "empty": self.tokenizer.encode([""])[0],
            },
        }


def read_portable(folder: Path, dim: int | None) -> Portable:
    """A trained model, in float32.

    Args:
        folder: of the model.
        dim: width of the exported vectors; the model's by default.

    Raises:
        MrlError: the folder is something else, or is damaged; a dim that the model has not.
    """
    for file, (what, hint) in OTHER_FOLDERS.items():
        if (folder / file).is_file() and not (folder / MODEL_FILE).exists():
            raise MrlError(f"{what}, expected a trained model", where=folder, hint=hint)
    info = read_model_info(folder)
    towers = read_towers(folder, info)
    model = load_model(folder, info, dtype=jnp.float32, int8=False)
    tokenizer = TextTokenizer(
        referenced_path(folder, info.text.path), max_tokens=info.max_text_tokens
    )
    width = max(model.separate_dims, default=model.text.config.embed_width)
    if dim is not None:
        check_dim(dim, width, model.separate_dims, option="--dim")
    return Portable(
        folder=folder,
        info=info,
        towers=towers,
        model=model,
        tokenizer=tokenizer,
        dim=width if dim is None else dim,
    )


def torch_parts(portable: Portable) -> tuple[dict[str, HostArray], dict[str, Any]]:
    """What `torch_model.SpeechTextModel` takes beside its towers: tensors and settings.

    Raises:
        MrlError: no PyTorch form of this kind of head.
    """
    text, kind = portable.model.text, portable.info.kind
    if kind not in _HEADS:
        raise MrlError(
            f"is of kind {kind}, which has no form in PyTorch",
            where=portable.folder,
            hint="export it with --stablehlo",
        )
    tensors, options = _HEADS[kind](portable)
    for number, layer in enumerate(text.dense):
        tensors[f"dense_{number}_weight"] = _weight(layer.kernel)
        if layer.bias is not None:
            tensors[f"dense_{number}_bias"] = _array(layer.bias)
    settings = {
        "head": options,
        "text": {
            "head_width": text.config.head_width,
            "rope_theta": text.config.rope_theta,
            "causal": text.config.causal,
            "pooling": text.config.pooling,
            "activations": [layer.activation for layer in text.config.dense],
        },
    }
    return tensors, settings


def _fusion(portable: Portable) -> tuple[dict[str, HostArray], dict[str, Any]]:
    head = portable.model.head
    tensors = {
        "projection": _weight(head.frame_projection.kernel),
        "downsample": np.ascontiguousarray(_array(head.frame_downsample.kernel).transpose(2, 1, 0)),
        "downsample_bias": _array(head.frame_downsample.bias),
    }
    return tensors, {}


def _soft(portable: Portable) -> tuple[dict[str, HostArray], dict[str, Any]]:
    model: Any = portable.model
    head, config = model.head, model.config
    tensors = {
        "ctc_weight": _weight(model.ctc.kernel),
        "ctc_bias": _array(model.ctc.bias),
        "token_table": np.asarray(model.token_table()),
        "logit_scale": _array(head.logit_scale),
        "logit_bias": _array(head.logit_bias),
    }
    if head.residual is not None:
        tensors["residual"] = _weight(head.residual.kernel)
    if head.lora is not None:
        for name, value in vars(head.lora).items():
            if name.endswith(("_down", "_up")):
                tensors[f"change_{name}"] = _array(value)
    options = {
        "blank": config.blank,
        "compress_blank": config.compress_blank,
        "blank_weight": config.blank_weight,
        "tokens_per_frame": model.tokens_per_frame,
        "residual": config.residual,
    }
    return tensors, options


def _pooling(portable: Portable) -> tuple[dict[str, HostArray], dict[str, Any]]:
    head, dims = portable.model.head, portable.model.separate_dims
    width = portable.dim if dims else portable.model.text.config.embed_width
    linear = head.projections[f"to_{width}"]
    tensors = {
        "query": _array(head.pool_query),
        "weight": _weight(linear.kernel),
        "bias": _array(linear.bias),
    }
    return tensors, {}


_HEADS: dict[str, Callable[[Portable], tuple[dict[str, HostArray], dict[str, Any]]]] = {
    "late_fusion": _fusion,
    "soft_ctc": _soft,
    "dual_encoder": _pooling,
}


def _array(value: Any) -> HostArray:
    return np.array(value[...], np.float32)


def _weight(kernel: Any) -> HostArray:
    """A kernel [in, out] as PyTorch has it, [out, in]."""
    return np.ascontiguousarray(_array(kernel).T)
