"""A trained model as one object: speech and text to vectors that can be compared."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float32

from mrl_jax.checkpoints.models import ModelInfo, load_model, read_model_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import batch_sharded, replicated
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import load_clip, resample
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.encoder import Encoder
from mrl_jax.inference.search.config import SearchConfig, read_search_config
from mrl_jax.inference.search.exact import unit_prefix
from mrl_jax.inference.search.funnel import Funnel, make_funnel
from mrl_jax.inference.search.rotation import Rotation, apply_rotation, read_rotation
from mrl_jax.inference.search.vectors import Vectors, check_separate, numbers_of
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree

Clip = str | Path | tuple[HostArray, int]
"""A recording on disk, or (samples [S] float, samples a second)."""


class Embedder:
    """Embeds speech and text with a trained model; made by `Embedder.load`.

    Attributes:
        info: the model's description: dims, prompts, towers.
        model: the Flax module.
        width: of the full embedding; where dims are separate, the widest of them.
        setting: how vectors are cut, kept and searched by default; None for full width.
        rotation: what vectors are turned by before they are cut; None where they are not.
    """

    def __init__(
        self,
        model: TwoTowers,
        info: ModelInfo,
        tokenizer: TextTokenizer,
        *,
        setting: SearchConfig | None = None,
        directions: Float32[HostArray, "dim rank"] | None = None,
        rotation: Rotation | None = None,
    ):
        self.model = model
        self.info = info
        self.setting = setting
        self.rotation = rotation
        self._directions = directions
        self.width = max(model.separate_dims, default=model.text.config.width)
        split = param_tree.split(model)
        rows = None
        if len(jax.local_devices()) > 1:  # A machine's devices share the rows of a batch.
            rows = batch_sharded(jax.local_devices())
            trained, frozen = jax.device_put((split.trained, split.frozen), replicated(rows))
            split = param_tree.Split(trained, frozen, split.rebuild)
        self.encoder = Encoder(split, model, tokenizer, prompts=info.prompts, sharding=rows)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        dtype: DTypeLike | None = None,
        setting: bool = False,
        rotation: bool = False,
    ) -> "Embedder":
        """Load a folder that `train.py` or `python -m converters oolel-embed` made.

        Args:
            folder: the model.
            dtype: dtype of the towers; the one trained with by default.
            setting: embed as the setting says that `eval.py tradeoff --budget` chose.
            rotation: turn vectors by the rotation that `mrl-jax rotate` fitted, so
                that short prefixes hold more. Both sides must be embedded so: queries
                and documents of one index.

        Raises:
            MrlError: no model, or its towers are gone or were changed; no setting or
                rotation, or one that belongs to another head; both.
        """
        folder = Path(folder)
        info = read_model_info(folder)
        if setting and rotation:
            raise MrlError(
                "both the setting and the rotation are asked for, and settings are measured "
                "without a rotation",
                where=folder,
                hint="pass one of them",
            )
        chosen, directions = read_search_config(folder, info) if setting else (None, None)
        turn = _need_rotation(folder, info) if rotation else None
        model = load_model(folder, info, dtype=dtype)
        tokenizer = TextTokenizer(folder / info.text.path, max_tokens=info.max_text_tokens)
        return cls(model, info, tokenizer, setting=chosen, directions=directions, rotation=turn)

    def embed_speech(
        self,
        clips: Sequence[Clip],
        *,
        prompt: str | None = None,
        task: str | None = None,
        dim: int | None = None,
        progress: bool = False,
    ) -> Float32[HostArray, "N E"]:
        """Unit vectors of recordings.

        Args:
            clips: files, or pairs of samples and sample rate.
            prompt: put before the speech, word for word.
            task: or a task of the training config, whose prompt is put there.
            dim: length of the prefix to keep; by default that of the setting, and the full
                width without one. A dual encoder with separate dims has a vector for each.
            progress: show a progress bar.

        Raises:
            MrlError: a recording that cannot be read or embedded; a dim above the width.
        """
        self._check_dim(dim)
        if isinstance(clips, str | Path):
            raise MrlError("clips is one path, expected a list of them", hint="put it in a list")
        _check_asked(prompt, task)
        rate = self.model.speech.config.sample_rate
        names: list[object] = [
            clip if isinstance(clip, str | Path) else f"clip {i}" for i, clip in enumerate(clips)
        ]
        samples = [
            load_clip(clip, rate)
            if isinstance(clip, str | Path)
            else resample(np.asarray(clip[0]), clip[1], rate, name=name)
            for clip, name in zip(clips, names, strict=True)
        ]
        vectors = self.encoder.speech(
            samples,
            tasks=[task or ""] * len(samples),
            prompts=None if prompt is None else [prompt] * len(samples),
            names=names,
            progress="speech" if progress else None,
        )
        return self._cut(vectors, dim)

    def embed_text(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        task: str | None = None,
        dim: int | None = None,
        progress: bool = False,
    ) -> Float32[HostArray, "N E"]:
        """Unit vectors of texts: documents as they are, written queries with a prompt.

        Args:
            texts: any number.
            prompt: put before each text, word for word.
            task: or a task of the training config, whose prompt is put there.
            dim: length of the prefix to keep; by default that of the setting, and the full
                width without one.
            progress: show a progress bar.
        """
        self._check_dim(dim)
        if isinstance(texts, str):
            raise MrlError("texts is one string, expected a list of them", hint="put it in a list")
        _check_asked(prompt, task)
        vectors = self.encoder.text(
            texts,
            tasks=None if task is None else [task] * len(texts),
            prompts=None if prompt is None else [prompt] * len(texts),
            progress="texts" if progress else None,
        )
        return self._cut(vectors, dim)

    def quantize(self, documents: Float32[HostArray, "N E"]) -> Funnel:
        """Documents kept as the setting says, to be searched: `.search(queries, k)`.

        Args:
            documents: of `embed_text`. Scales of int8 are fitted on them.
        """
        chosen = self.setting
        if chosen is None:
            raise MrlError("no setting was loaded", hint="pass `setting=True` to `Embedder.load`")
        return make_funnel(
            documents, chosen.precision, prefix=chosen.prefix, shortlist=chosen.shortlist
        )

    def _cut(self, vectors: Vectors, dim: int | None) -> HostArray:
        if self.rotation is not None:
            vectors = apply_rotation(numbers_of(vectors), self.rotation)
        if dim is not None or self.setting is None:
            return unit_prefix(vectors, self.width if dim is None else dim)
        cut = unit_prefix(vectors, self.setting.dim)
        return cut if self._directions is None else unit_prefix(cut @ self._directions, None)

    def _check_dim(self, dim: int | None) -> None:
        if dim is None:
            return
        if not 1 <= dim <= self.width:
            raise MrlError(f"dim is {dim}, expected 1 to {self.width}, the model's width")
        check_separate(dim, self.model.separate_dims)
        warn_untrained(dim, self.info.dims, stacklevel=4)


def _check_asked(prompt: str | None, task: str | None) -> None:
    if prompt is not None and task is not None:
        raise MrlError("both prompt and task are given", hint="pass one of them")


def _need_rotation(folder: Path, info: ModelInfo) -> Rotation:
    """The rotation of a model's folder."""
    found = read_rotation(folder, head_digest=info.head_digest)
    if found is None:
        raise MrlError(
            "has no rotation",
            where=folder,
            hint="fit one: `mrl-jax rotate`",
        )
    return found


def warn_untrained(dim: int, trained: Sequence[int], *, stacklevel: int) -> None:
    """A warning where a prefix was not trained to stand alone."""
    if dim not in trained:
        told = ", ".join(map(str, trained))
        warnings.warn(f"dim {dim} is not among those trained: {told}", stacklevel=stacklevel)
