"""Clips and texts to unit vectors, in batches of few shapes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import put_global
from mrl_jax.core.errors import MrlError
from mrl_jax.core.limits import MAX_SECONDS
from mrl_jax.data.text.prompts import prompts_of
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.inference.batching import (
    FULL_BATCH,
    busy_places,
    clip_growth,
    device_count,
    embed_batches,
    padded_clips,
    padded_places,
)
from mrl_jax.inference.long_clips import check_lengths, check_max_seconds
from mrl_jax.inference.packed_texts import ROW, embed_packed, packing_pays
from mrl_jax.inference.programs import compile_program, count_flops
from mrl_jax.inference.search.vectors import SeparateVectors, Vectors
from mrl_jax.models.fusion import FusionModel
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree

EMBED: dict[str, Callable[..., Any]] = {
    "speech": lambda model, *inputs: model.embed_speech(*inputs),
    "text": lambda model, *inputs: model.embed_text(*inputs),
}
IN_BATCHES = EMBED | {
    "speech": lambda model, *inputs: model.embed_speech_and_lost(*inputs),
    "speech features": lambda model, *inputs: model.speech_features_and_lost(*inputs),
    "text features": lambda model, *inputs: model.text_features(*inputs),
    "packed text": lambda model, *inputs: model.text.embed_packed(*inputs),
}
SHORTEST_PROMPT = 32
"""Places of any shorter prompt: more than nearly all sentences that say a task need."""


class Encoder:
    """Embeds with a model that is taken apart into arrays, as in training.

    A vector does not depend on the batch it is computed in. (Under "reference" padding it does,
    as in the published code: a batch is padded to its longest clip, and each length compiles.)

    Args:
        split: the model's arrays, placed where the sharding has them, and how to rebuild it.
        config_model: any module of the same structure; its sizes are read.
        tokenizer: the text tower's.
        prompts: sentence of each task.
        sharding: of a batch's rows over devices; where these are of several hosts, all hosts
            call with the same arguments and all get the whole result.
        batch_size: rows in a batch, rounded up to a multiple of the devices; many texts are packed
            on a CPU, in rows of another number.
        max_seconds: longer clips are refused; None for no limit but memory.

    Attributes:
        trained, frozen: the arrays; `trained` may be replaced by those of a training state, and
            both where they were shapes.
        tokenizer: the text tower's.
        batch_size: rows in a batch.
    """

    def __init__(
        self,
        split: param_tree.Split,
        config_model: TwoTowers,
        tokenizer: TextTokenizer,
        *,
        prompts: Mapping[str, str],
        sharding: NamedSharding | None = None,
        batch_size: int = 16,
        max_seconds: float | None = MAX_SECONDS,
    ):
        self._max_seconds = check_max_seconds(max_seconds)
        self._config_model = config_model
        self.trained, self.frozen = split.trained, split.frozen
        self.prompts = prompts
        self._rebuild = split.rebuild
        self._pad = functools.partial(
            padded_clips, config=config_model.speech.config, padding=config_model.speech.padding
        )
        self._min_samples = config_model.min_samples
        self._separate_dims = config_model.separate_dims
        self._has_tokens = isinstance(config_model, FusionModel)
        self.tokenizer = tokenizer
        self._sharding, self.batch_size = sharding, batch_size
        self._programs = {
            kind: compile_program(split.rebuild, run, sharding) for kind, run in IN_BATCHES.items()
        }
        self._programs_alone: dict[str, Callable[..., Any]] = {}

    def speech(
        self,
        clips: Sequence[HostArray],
        *,
        tasks: Sequence[str] | None = None,
        prompts: Sequence[str | None] | None = None,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> Vectors:
        """Embed clips [S]: mono, float, at the tower's sample rate.

        Args:
            tasks: task of each clip, whose prompt from the config is used.
            prompts: prompt of each clip, word for word; None for that of its task.
            names: of each clip, for error messages.
            progress: name of a progress bar.

        Returns:
            [N, E] whose prefixes are embeddings too, or `SeparateVectors` of a model that has
            a vector for each dim.

        Raises:
            MrlError: a clip that cannot be embedded, or has more speech tokens than there is room
                for; a task without a prompt.
        """
        numbers = self._speech("speech", clips, tasks, prompts, names=names, progress=progress)
        dims = self._separate_dims
        return SeparateVectors(numbers, dims) if dims else numbers

    def speech_features(
        self,
        clips: Sequence[HostArray],
        *,
        prompts: Sequence[str | None] | None = None,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> Float32[HostArray, "N 4 E"]:
        """`Qwen3Encoder.features` of clips, by a `FusionModel`; arguments as of `speech`.

        Raises:
            MrlError: as `speech`; the model is a dual encoder.
        """
        if not self._has_tokens:
            raise MrlError(
                "the model is a dual encoder, whose speech has no tokens in the text tower",
                hint="take the pooled vectors",
            )
        return self._speech("speech features", clips, None, prompts, names=names, progress=progress)

    def _speech(
        self,
        kind: str,
        clips: Sequence[HostArray],
        tasks: Sequence[str] | None,
        prompts: Sequence[str | None] | None,
        *,
        names: Sequence[object] | None,
        progress: str | None,
    ) -> HostArray:
        names = [f"clip {i}" for i in range(len(clips))] if names is None else names
        self.check_speech(clips, tasks=tasks, names=names)
        tokens = self.tokenizer.encode_prompts(self.prompts_of(tasks, prompts, len(clips)))
        prompt_size = prompt_places(tokens)
        sizes = [len(clip) for clip in clips]
        growth = clip_growth(sizes)

        def inputs(rows: list[int]) -> tuple[Any, ...]:
            named = [names[i] for i in rows]
            padded = self._pad([clips[i] for i in rows], growth=growth, names=named)
            return *padded, *pad_tokens([tokens[i] for i in rows], prompt_size)

        def check(rows: HostArray, lost: HostArray) -> None:
            if lost.any():
                raise _lost_tokens(names[rows[lost.argmax()]], int(lost.max()))

        return self._in_batches(kind, sizes, inputs, progress, check=check)

    def check_speech(
        self,
        clips: Sequence[HostArray],
        *,
        tasks: Sequence[str] | None,
        names: Sequence[object],
    ) -> None:
        """Raises an `MrlError` where a clip is too short or too long, or a task has no prompt."""
        for clip, name in zip(clips, names, strict=True):
            if np.size(clip) < self._min_samples:
                raise MrlError(
                    f"the audio has {np.size(clip)} samples, shorter than one speech token of "
                    f"{self._min_samples}",
                    where=name,
                    hint="leave the clip out, or join it to its neighbour",
                )
        check_lengths(clips, names, self._config_model, self._max_seconds)
        self.prompts_of(tasks, None, len(clips))

    def prompts_of(
        self,
        tasks: Sequence[str] | None,
        prompts: Sequence[str | None] | None,
        count: int,
    ) -> list[str]:
        """The prompt of each of `count` queries, see `data.text.prompts.prompts_of`."""
        hint = "correct the task, or pass the prompt itself"
        return prompts_of(count, self.prompts, tasks=tasks, given=prompts, hint=hint)

    def prompt_size(self, task: str) -> int:
        """Places that the prompt of a task takes before a clip."""
        return prompt_places(self.tokenizer.encode_prompts(self.prompts_of([task], None, 1)))

    def token_count(self, text: str) -> int:
        """Tokens of a text as the text tower reads it, special ones included."""
        return len(self.tokenizer.encode([text])[0])

    def text(
        self,
        texts: Sequence[str],
        *,
        tasks: Sequence[str] | None = None,
        prompts: Sequence[str | None] | None = None,
        progress: str | None = None,
    ) -> Float32[HostArray, "N E"]:
        """Embed texts, at least one: documents, or queries with the prompts of their tasks.

        Documents get the prompt that the text tower's own files may have for them.
        """
        tokens = self._tokens(texts, tasks, prompts)
        lengths, devices = [len(ids) for ids in tokens], device_count(self._sharding)
        # One batch is never packed: a service has compiled it before.
        if len(tokens) <= self.batch_size or not packing_pays(lengths, devices):
            return self._text("text", tokens, progress)
        short = [number for number, length in enumerate(lengths) if length <= ROW]
        long = [number for number, length in enumerate(lengths) if length > ROW]
        vectors = embed_packed(
            [tokens[number] for number in short],
            functools.partial(self._programs["packed text"], self.trained, self.frozen),
            sharding=self._sharding,
            progress=progress,
        )
        together = np.empty((len(tokens), vectors.shape[1]), np.float32)
        together[short] = vectors
        if long:
            named = progress and f"{progress}, those of over {ROW} tokens"
            together[long] = self._text("text", [tokens[number] for number in long], named)
        return together

    def compile_text(
        self, text: str, *, tasks: Sequence[str] | None, prompts: Sequence[str | None] | None
    ) -> None:
        """Compile what `text` runs for one such text; shapes may stand in place of the weights."""
        rows = self._tokens([text], tasks, prompts)
        inputs: Any = self._text_inputs(rows)
        if self._sharding is not None:
            inputs = self._text_inputs([*rows] * len(self._sharding.device_set))
            inputs = put_global(inputs, self._sharding)
        program: Any = self._programs["text"]
        program.lower(self.trained, self.frozen, *inputs).compile()

    def _tokens(
        self,
        texts: Sequence[str],
        tasks: Sequence[str] | None,
        prompts: Sequence[str | None] | None,
    ) -> Sequence[Sequence[int]]:
        if tasks is None and prompts is None:
            return self.tokenizer.encode_documents(texts)
        before = self.prompts_of(tasks, prompts, len(texts))
        asked = [prompt + text for prompt, text in zip(before, texts, strict=True)]
        return self.tokenizer.encode(asked)

    def text_features(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float32[HostArray, "N 4 E"]:
        """`Qwen3Encoder.features` of texts, at least one."""
        return self._text("text features", self.tokenizer.encode(texts), progress)

    def _text(self, kind: str, tokens: Sequence[Sequence[int]], progress: str | None) -> HostArray:
        return self._in_batches(
            kind,
            [len(ids) for ids in tokens],
            lambda rows: self._text_inputs([tokens[i] for i in rows]),
            progress,
        )

    def alone(
        self, query: HostArray | str, *, task: str = "", prompt: str | None = None
    ) -> Callable[[], HostArray]:
        """A function that embeds one query, from samples or text on: to be timed."""
        before = self.prompts_of([task], [prompt], 1)[0]
        kind = _kind(query)
        # On one device, however many share a batch.
        arrays = jax.tree.map(
            lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x,
            (self.trained, self.frozen),
        )
        if kind not in self._programs_alone:
            self._programs_alone[kind] = compile_program(self._rebuild, EMBED[kind])
        program = self._programs_alone[kind]

        def run() -> HostArray:
            return np.asarray(program(*arrays, *self._inputs_alone(query, before)))

        return run

    def flops(self, query: HostArray | str, *, task: str = "", prompt: str | None = None) -> float:
        """Floating-point operations of embedding one query alone, as `count_flops` counts them."""
        inputs = self._inputs_alone(query, self.prompts_of([task], [prompt], 1)[0])
        return count_flops(self._rebuild, EMBED[_kind(query)], self.trained, self.frozen, *inputs)

    def _inputs_alone(self, query: HostArray | str, before: str) -> tuple[Any, ...]:
        if isinstance(query, str):
            return self._text_inputs(self.tokenizer.encode([before + query]))
        tokens = self.tokenizer.encode_prompts([before])
        padded = pad_tokens(tokens, prompt_places(tokens))
        return *self._pad([query], names=["the query"]), *padded

    def _text_inputs(self, tokens: Sequence[Sequence[int]]) -> tuple[Any, ...]:
        return pad_tokens(tokens, padded_places(max(map(len, tokens))))

    def _in_batches(
        self,
        kind: str,
        lengths: Sequence[int],
        inputs: Callable[[list[int]], tuple[Any, ...]],
        progress: str | None,
        *,
        check: Callable[[HostArray, HostArray], None] | None = None,
    ) -> HostArray:
        speech = kind.startswith("speech")
        padding = self._config_model.speech.padding
        return embed_batches(
            lengths,
            inputs,
            functools.partial(self._programs[kind], self.trained, self.frozen),
            batch_size=self.batch_size,
            sharding=self._sharding,
            shrink_last=True,
            full_length=FULL_BATCH if speech else None,
            busy=busy_places("clips", padding) if speech else busy_places("texts"),
            progress=progress,
            check=check,
        )


def prompt_places(prompts: Sequence[Sequence[int]]) -> int:
    """Places that the prompts of a batch are padded to: 0 without any, else 32, 64, 128, …

    A program is compiled for every such number, of which most prompts need but one; padded
    places change no vector.
    """
    longest = max(map(len, prompts), default=0)
    places = SHORTEST_PROMPT if longest else 0
    while places < longest:
        places *= 2
    return places


def _kind(query: HostArray | str) -> str:
    return "text" if isinstance(query, str) else "speech"


def _lost_tokens(name: object, lost: int) -> MrlError:
    return MrlError(
        f"the clip has {lost} speech tokens more than there is room for",
        where=name,
        hint="train with a higher model.max_tokens_per_second (train.steps=0 trains nothing)",
    )
