"""A trained model as one object: speech and text to vectors that can be compared."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import jax
from jax.typing import DTypeLike
from jaxtyping import Float32

from mrl_jax.checkpoints.models import ModelInfo, load_model, read_model_info
from mrl_jax.core.arguments import PositiveFloat, PositiveInt, checked, mismatch
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import replicated
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.core.forks import Owner
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.decode import clip_seconds, decode_clip, load_each, resample
from mrl_jax.data.text.prompts import check_one_prompt
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.encoder import Encoder
from mrl_jax.inference.first_text import FirstText, compiling, model_tokenizer, shared_rows
from mrl_jax.inference.hub_models import model_folder
from mrl_jax.inference.long_clips import check_max_seconds, check_seconds
from mrl_jax.inference.search.config import SearchConfig, read_search_config
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.funnel import Funnel, make_funnel
from mrl_jax.inference.search.rotation import Rotation, apply_rotation, read_rotation
from mrl_jax.inference.search.vectors import Vectors, check_dim, numbers_of
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree

Clip = str | Path | tuple[HostArray, PositiveInt] | Mapping[str, Any]
"""A recording on disk; or (samples [S] float, samples a second), or the same as
`{"array": samples, "sampling_rate": rate}`, as Hugging Face's data sets give it."""


class EmbedOptions(TypedDict, total=False):
    """How clips or texts are embedded; nothing is needed.

    Attributes:
        prompt: put before each query, word for word.
        task: or a task of the training config, whose prompt is put before each query.
        dim: length of the prefix to keep; by default that of the search config, or the full
            width without one. A dual encoder with separate dims has a vector for each.
        progress: show a progress bar.
    """

    prompt: str | None
    task: str | None
    dim: int | None
    progress: bool


@checked
class Embedder:
    """Embeds speech and text with a trained model; made by `Embedder.load`.

    Attributes:
        info: the model's description: dims, prompts, towers.
        model: the Flax module.
        width: of the full embedding; where dims are separate, the widest of them.
        search_config: how vectors are truncated, stored and searched by default; None for the
            full width.
        rotation: applied to vectors before they are truncated; None for none.
        max_seconds: longer recordings are refused; infinite where memory is the only limit.
        folder: that it was loaded from; None where it was made of its parts.

    An `Embedder` that was loaded can be pickled: its folder and options are, and whoever
    unpickles it loads them again. In a forked child it refuses to embed, as JAX would hang.
    """

    def __init__(
        self,
        model: TwoTowers,
        info: ModelInfo,
        tokenizer: TextTokenizer,
        *,
        search_config: SearchConfig | None = None,
        directions: Float32[HostArray, "dim rank"] | None = None,
        rotation: Rotation | None = None,
        max_seconds: PositiveFloat | None = MAX_SECONDS,
        batch_size: PositiveInt = 16,
        folder: Path | None = None,
        encoder: Encoder | None = None,
    ):
        self._owner = Owner()
        self._loaded: tuple[Path, dict[str, Any]] | None = None
        self.max_seconds = check_max_seconds(max_seconds)
        self.model = model
        self.folder = folder
        self.info = info
        self.search_config = search_config
        self.rotation = rotation
        self._directions = directions
        self.width = max(model.separate_dims, default=model.text.config.embed_width)
        split = param_tree.split(model)
        if (rows := shared_rows()) is not None:
            trained, frozen = jax.device_put((split.trained, split.frozen), replicated(rows))
            split = param_tree.Split(trained, frozen, split.rebuild)
        if encoder is None:
            options: dict[str, Any] = {"prompts": info.prompts, "max_seconds": max_seconds}
            options["batch_size"] = batch_size
            encoder = Encoder(split, model, tokenizer, sharding=rows, **options)
        encoder.trained, encoder.frozen = split.trained, split.frozen
        self.encoder = encoder

    @classmethod
    @checked
    def load(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        dtype: DTypeLike | None = None,
        search_config: bool = False,
        rotation: bool = False,
        max_seconds: PositiveFloat | None = MAX_SECONDS,
        batch_size: PositiveInt = 16,
        int8: bool | None = None,
        verify: bool = True,
        first: FirstText | None = None,
    ) -> "Embedder":
        """Load a folder that `mrl-jax train` or `mrl-jax convert oolel-embed` made, or a model
        that `mrl-jax push` uploaded.

        Args:
            folder: the model; or its name on the hub, "owner/name" or "owner/name@revision",
                where there is no folder of that name.
            revision: branch, tag or commit on the hub, instead of @revision.
            dtype: dtype of the towers; the one trained with by default.
            search_config: embed as `mrl-jax eval tradeoff --budget` chose.
            rotation: apply the rotation that `mrl-jax rotate` fitted, so that short prefixes
                hold more. Queries and documents of one index must both be embedded so.
            max_seconds: recordings that are longer are refused, an hour by default; None for
                no limit but memory, which is asked about in any case.
            batch_size: clips or texts that are embedded at once, over all devices: more of them
                keep an accelerator busy, and no vector depends on it. A CPU takes fewer of long
                ones, if there is more than one batch.
            int8: hold the kernels of the towers' layers in eight bits: half of bfloat16's memory,
                vectors change by about 1e-3 in cosine. As in training by default.
            verify: compare all files with their digests first, see docs/models.md for the time.
            first: a text that will be embedded alone: its program is compiled while the weights
                are read.

        Raises:
            MrlError: no model, or its towers are gone or were changed; no search config or
                rotation, or one that belongs to another head; both; the hub does not give it.
        """
        folder = model_folder(folder, revision=revision)
        info = read_model_info(folder)
        if search_config and rotation:
            problem = "both a search config and a rotation are given; they exclude each other"
            raise MrlError(problem, where=folder, hint="pass one of them")
        config, directions = read_search_config(folder, info) if search_config else (None, None)
        fitted = read_rotation(folder, head_digest=info.head_digest) if rotation else None
        if rotation and fitted is None:
            raise MrlError("has no rotation", where=folder, hint="fit one: `mrl-jax rotate`")
        held: dict[str, Any] = {"dtype": dtype, "int8": int8}
        limits: dict[str, Any] = {"batch_size": batch_size, "max_seconds": max_seconds}
        with compiling(folder, info, first, held=held, **limits) as encoder:
            model = load_model(folder, info, **held, verify=verify)
        width = model.text.config.embed_width
        if config is not None and config.dim > width:
            problem = f"the search config has dim {config.dim}, and the model has {width}"
            raise MrlError(problem, where=folder, hint="choose one again")
        options: dict[str, Any] = {"search_config": config, "directions": directions}
        options |= {"rotation": fitted, "folder": folder, "encoder": encoder, **limits}
        tokenizer = model_tokenizer(folder, info) if encoder is None else encoder.tokenizer
        embedder = cls(model, info, tokenizer, **options)
        chosen = {"dtype": dtype, "search_config": search_config, "rotation": rotation}
        chosen |= {"max_seconds": max_seconds, "batch_size": batch_size, "verify": verify}
        chosen["int8"] = int8
        embedder._loaded = (folder.resolve(), chosen)
        return embedder

    def __reduce__(self) -> tuple[Any, ...]:
        if self._loaded is None:
            raise MrlError(
                "an Embedder that was made of modules cannot be pickled",
                hint="save the model and load it: Embedder.load(folder)",
            )
        return _load_again, (self.info.digest, *self._loaded)

    @checked
    def embed_speech(
        self, clips: Sequence[Clip], **options: Unpack[EmbedOptions]
    ) -> Float32[HostArray, "N E"]:
        """Unit vectors of recordings.

        Args:
            clips: files, or pairs of samples and sample rate.
            options: prompt, task, dim and progress, see `EmbedOptions`.

        Raises:
            MrlError: a recording that cannot be read or embedded; a dim above the width.
        """
        return self._embed("clips", clips, **options)

    @checked
    def embed_text(
        self, texts: Sequence[str], **options: Unpack[EmbedOptions]
    ) -> Float32[HostArray, "N E"]:
        """Unit vectors of texts, at least one: documents, or written queries with their prompt.

        Args:
            options: prompt, task, dim and progress, see `EmbedOptions`.
        """
        return self._embed("texts", texts, **options)

    def _embed(
        self,
        kind: Literal["clips", "texts"],
        inputs: Sequence[Any],
        *,
        prompt: str | None = None,
        task: str | None = None,
        dim: int | None = None,
        progress: bool = False,
    ) -> HostArray:
        self._owner.check("the Embedder")
        if dim is not None:
            self.check_dim(dim, stacklevel=5)
        check_one_prompt(task, prompt)
        options: dict[str, Any] = {
            "tasks": None if task is None else [task] * len(inputs),
            "prompts": None if prompt is None else [prompt] * len(inputs),
            "progress": kind if progress else None,
        }
        if kind == "texts":
            return self._cut(self.encoder.text(inputs, **options), dim)
        names = [
            clip if isinstance(clip, str | Path) else f"clip {number}"
            for number, clip in enumerate(inputs)
        ]
        named = zip(names, inputs, strict=True)
        samples = load_each(lambda pair: self.samples_of(pair[1], name=pair[0]), named)
        return self._cut(self.encoder.speech(samples, names=names, **options), dim)

    def check_dim(self, dim: int, *, stacklevel: int) -> None:
        """Raises an `MrlError` where the model has no such dim; warns of one not trained."""
        check_dim(dim, self.width, self.model.separate_dims)
        warn_untrained(dim, self.info.dims, stacklevel=stacklevel)

    def samples_of(self, clip: Any, *, name: object) -> HostArray:
        """A recording at the tower's rate; one that says it is too long is not read at all.

        Args:
            clip: a `Clip`, or the bytes of a file.
            name: of the clip, for errors.

        Returns:
            [S] float32.

        Raises:
            MrlError: a recording that cannot be read, or is too long.
        """
        rate = self.model.speech.config.sample_rate
        if not isinstance(clip, str | Path | bytes):
            samples, own_rate = _samples_and_rate(clip, str(name))
            check_seconds(samples.size / own_rate, name, self.model, self.max_seconds)
            return resample(samples, own_rate, rate, name=name)
        source = clip if isinstance(clip, bytes) else user_path(clip)
        where = name if isinstance(clip, bytes) else source
        if math.isinf(self.max_seconds):
            return decode_clip(source, rate, name=where)
        seconds = clip_seconds(source, name=where)
        if math.isfinite(seconds):  # Others are read until they are too long.
            check_seconds(seconds, name, self.model, self.max_seconds)
        return decode_clip(source, rate, name=where, max_seconds=self.max_seconds + 1)

    @checked
    def quantize(self, documents: Float32[HostArray, "N E"]) -> Funnel:
        """Documents stored as the search config says, to be searched: `.search(queries, k)`.

        Args:
            documents: of `embed_text`. Scales of int8 are fitted on them.
        """
        config = self.search_config
        if config is None:
            hint = "pass `search_config=True` to `Embedder.load`"
            raise MrlError("no search config was loaded", hint=hint)
        return make_funnel(
            documents, config.precision, prefix=config.prefix, shortlist=config.shortlist
        )

    def _cut(self, vectors: Vectors, dim: int | None) -> HostArray:
        if self.rotation is not None:
            vectors = apply_rotation(numbers_of(vectors), self.rotation)
        if dim is not None or self.search_config is None:
            return truncate(vectors, self.width if dim is None else dim)
        cut = truncate(vectors, self.search_config.dim)
        return cut if self._directions is None else truncate(cut @ self._directions, None)


def _load_again(digest: str, folder: Path, options: Mapping[str, Any]) -> Embedder:
    """What was pickled, from its folder.

    Raises:
        MrlError: as `Embedder.load`; the folder holds another model by now.
    """
    embedder = Embedder.load(folder, **options)
    if embedder.info.digest != digest:
        problem = "holds another model than when the Embedder was pickled"
        raise MrlError(problem, where=folder, hint="pickle it again")
    return embedder


def _samples_and_rate(clip: Any, name: str) -> tuple[HostArray, int]:
    """A clip in memory: a pair, or the dict of a Hugging Face data set."""
    if not isinstance(clip, Mapping):
        return clip
    samples, rate = (clip.get(key) for key in ("array", "sampling_rate"))
    problem = mismatch((samples, rate), tuple[HostArray, PositiveInt])
    if problem is not None:
        hint = 'pass {"array": samples, "sampling_rate": rate}, or (samples, rate)'
        raise ArgumentError(f"is {problem}", where=name, hint=hint)
    return samples, rate  # pyright: ignore[reportReturnType] - as `mismatch` found


@checked
def warn_untrained(dim: int, trained: Sequence[int], *, stacklevel: int) -> None:
    """A warning where a prefix was not trained to stand alone."""
    if dim not in trained:
        names = ", ".join(map(str, trained))
        warnings.warn(f"dim {dim} is not among those trained: {names}", stacklevel=stacklevel)
