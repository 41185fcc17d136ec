"""Clips and texts to unit vectors, in batches of few shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import put_global, replicated
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens, query_prompt
from mrl_jax.inference.search.vectors import SeparateVectors, Vectors
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn.layer_stack import FSDP, InMesh

Rebuild = Callable[[Mapping[str, Any], Mapping[str, Any]], TwoTowers]


SECOND = 16_000


GROWTH = 1.3
"""Padded lengths grow by this factor, so that long and short clips need few shapes."""


class Encoder:
    """Embeds with a model that is given as (rebuild, trained, frozen), as in training.

    A vector does not depend on the batch it is computed in: padding never matters, and
    rows that fill a batch up are dropped. (Under "reference" padding it does, as in the
    published code: there a batch is padded to its longest clip, and each length compiles.)

    Args:
        rebuild: the model from its arrays, see `param_tree.split`.
        trained: arrays of the trained leaves.
        frozen: arrays of all others.
        config_model: any module of the same structure; its sizes are read.
        tokenizer: the text tower's.
        prompts: sentence of each task.
        sharding: where batches go; rows are shared out over its devices, of all hosts if it
            has them, which then all call with the same and all get the whole.
        batch_size: rows in a batch, rounded up to a multiple of the devices.
    """

    def __init__(
        self,
        rebuild: Rebuild,
        trained: Mapping[str, Any],
        frozen: Mapping[str, Any],
        config_model: TwoTowers,
        tokenizer: TextTokenizer,
        *,
        prompts: Mapping[str, str],
        sharding: NamedSharding | None = None,
        batch_size: int = 16,
    ):
        devices = 1 if sharding is None else len(sharding.device_set)
        self._devices = devices
        self.batch_size = -(-batch_size // devices) * devices
        self._rebuild = rebuild
        self.trained, self.frozen = trained, frozen
        self.prompts = prompts
        self._speech_config = config_model.speech.config
        self._min_samples = config_model.min_samples
        self._separate_dims = config_model.separate_dims
        self._reference = config_model.speech.padding == "reference"
        self._tokenizer = tokenizer
        self._sharding = sharding

        self._programs_alone: dict[str, Callable[..., Any]] = {}
        self._programs = {
            "speech": self._compiled(lambda model, *inputs: model.embed_speech(*inputs)),
            "text": self._compiled(lambda model, *inputs: model.embed_text(*inputs)),
        }

    def _compiled(self, run: Callable[..., Any], *, alone: bool = False) -> Callable[..., Any]:
        """`run` as a program of (trained, frozen, *inputs), which holds none of them."""
        rebuild, rows = self._rebuild, None if alone else self._sharding
        whole = None if rows is None else replicated(rows)

        def program(trained: Any, frozen: Any, *inputs: Any) -> Any:
            return run(rebuild(trained, frozen), *inputs)

        compiled = jax.jit(program, out_shardings=whole)
        if rows is None or FSDP not in rows.mesh.axis_names:
            return compiled
        assert isinstance(rows.mesh, Mesh)
        return InMesh(compiled, rows.mesh)

    def _run(self, kind: str, inputs: tuple[Any, ...]) -> HostArray:
        program = self._programs[kind]
        return np.asarray(program(self.trained, self.frozen, *self._put(inputs)))

    def speech(
        self,
        clips: Sequence[HostArray],
        *,
        tasks: Sequence[str] | None = None,
        prompts: Sequence[str | None] | None = None,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> Vectors:
        """Embed clips: mono, float, at the tower's sample rate.

        Args:
            clips: one [S] array a clip.
            tasks: task of each clip, whose prompt from the config is used.
            prompts: or the prompt itself of each clip, word for word; None for its task's.
            names: what errors call each clip.
            progress: name of a progress bar.

        Returns:
            [N, E] whose prefixes serve, or separate vectors where the model's are.

        Raises:
            MrlError: a clip that cannot be embedded; an unknown task.
        """
        names = [f"clip {i}" for i in range(len(clips))] if names is None else names
        self.check_speech(clips, tasks=tasks, names=names)
        lengths = np.asarray([len(clip) for clip in clips], np.int64)
        tokens = self._tokenizer.encode_prompts(self.prompts_of(tasks, prompts, len(clips)))
        prompt_size = max((len(ids) for ids in tokens), default=0)

        def run(rows: HostArray) -> HostArray:
            filled = self._fill(rows)
            inputs = self._speech_inputs(
                [clips[i] for i in filled],
                [tokens[i] for i in filled],
                [names[i] for i in filled],
                prompt_size,
            )
            return self._run("speech", inputs)

        numbers = self._in_batches(lengths, run, progress)
        dims = self._separate_dims
        return SeparateVectors(numbers, dims) if dims else numbers

    def check_speech(
        self,
        clips: Sequence[HostArray],
        *,
        tasks: Sequence[str] | None,
        names: Sequence[object],
    ) -> None:
        """Raises an `MrlError` where a clip is too short or a task has no prompt."""
        for clip, name in zip(clips, names, strict=True):
            if np.size(clip) < self._min_samples:
                raise MrlError(
                    f"the audio has {np.size(clip)} samples, shorter than one speech token of "
                    f"{self._min_samples}",
                    where=name,
                    hint="leave the clip out, or join it to its neighbour",
                )
        for task in set(tasks or ()):
            self._prompt(task)

    def prompts_of(
        self,
        tasks: Sequence[str] | None,
        prompts: Sequence[str | None] | None,
        count: int,
    ) -> list[str]:
        """What stands before each of `count` queries, word for word.

        Raises:
            MrlError: an unknown task.
        """
        tasks, given = tasks or [""] * count, prompts or [None] * count
        pairs = zip(tasks, given, strict=True)
        return [self._prompt(task) if words is None else words for task, words in pairs]

    def text(
        self,
        texts: Sequence[str],
        *,
        tasks: Sequence[str] | None = None,
        prompts: Sequence[str | None] | None = None,
        progress: str | None = None,
    ) -> Float32[HostArray, "N E"]:
        """Embed texts: documents, which carry no prompt, or queries with theirs.

        Args:
            texts: any number.
            tasks, prompts: of written queries, as in `speech`.
            progress: name of a progress bar.
        """
        if tasks is not None or prompts is not None:
            before = self.prompts_of(tasks, prompts, len(texts))
            texts = [words + text for words, text in zip(before, texts, strict=True)]
        tokens = self._tokenizer.encode(texts)
        lengths = np.asarray([len(ids) for ids in tokens], np.int64)

        def run(rows: HostArray) -> HostArray:
            inputs = self._text_inputs([tokens[i] for i in self._fill(rows)])
            return self._run("text", inputs)

        return self._in_batches(lengths, run, progress)

    def alone(
        self, query: HostArray | str, *, task: str = "", prompt: str | None = None
    ) -> Callable[[], HostArray]:
        """What embeds one query and nothing else, from samples or text on: to be timed.

        Args:
            query: a clip as `speech` takes it, or a text.
            task, prompt: of it.
        """
        before = self.prompts_of([task], [prompt], 1)[0]
        kind = "text" if isinstance(query, str) else "speech"
        # On one device, however many share a batch.
        arrays = jax.tree.map(
            lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x,
            (self.trained, self.frozen),
        )
        if kind not in self._programs_alone:
            embed = f"embed_{kind}"
            self._programs_alone[kind] = self._compiled(
                lambda model, *inputs: getattr(model, embed)(*inputs), alone=True
            )
        program = self._programs_alone[kind]

        def run() -> HostArray:
            return np.asarray(program(*arrays, *self._inputs_alone(query, before)))

        return run

    def flops(self, query: HostArray | str, *, task: str = "", prompt: str | None = None) -> float:
        """Floating-point operations of embedding one query alone, by XLA's count.

        It counts the body of a loop once, so the layers are counted unrolled; nothing is
        compiled for it, and what a compiler saves is not taken off.
        """

        def program(trained: Any, frozen: Any, *inputs: Any) -> Any:
            model = self._rebuild(trained, frozen)
            for tower in (model.speech, model.text):
                tower.unroll, tower.remat = True, False
            embed = model.embed_text if isinstance(query, str) else model.embed_speech
            return embed(*inputs)

        inputs = self._inputs_alone(query, self.prompts_of([task], [prompt], 1)[0])
        counted = jax.jit(program).lower(self.trained, self.frozen, *inputs).cost_analysis()
        return float((counted or {}).get("flops", "nan"))

    def _inputs_alone(self, query: HostArray | str, before: str) -> tuple[Any, ...]:
        if isinstance(query, str):
            return self._text_inputs(self._tokenizer.encode([before + query]))
        tokens = self._tokenizer.encode_prompts([before])
        return self._speech_inputs([query], tokens, ["the query"], len(tokens[0]))

    def _speech_inputs(
        self,
        clips: Sequence[HostArray],
        tokens: Sequence[Sequence[int]],
        names: Sequence[object],
        prompt_size: int,
    ) -> tuple[Any, ...]:
        # The reference reads padding as speech: nothing is padded beyond the longest.
        longest = max(len(clip) for clip in clips)
        size = longest if self._reference else padded_length(longest)
        samples, counts = pad_clips(clips, self._speech_config, size=size, names=names)
        return samples, counts, *pad_tokens(tokens, prompt_size)

    def _text_inputs(self, tokens: Sequence[Sequence[int]]) -> tuple[Any, ...]:
        size = -(-max(map(len, tokens)) // 16) * 16
        return pad_tokens(tokens, size)

    def _prompt(self, task: str) -> str:
        if task and self.prompts and task not in self.prompts:
            raise MrlError(
                f"the task {task!r} has no prompt in the model, expected one of "
                f"{', '.join(sorted(self.prompts))}",
                hint="correct the task, or pass the prompt itself",
            )
        return query_prompt(self.prompts.get(task, ""))

    def _in_batches(
        self, lengths: HostArray, run: Callable[[HostArray], HostArray], progress: str | None
    ) -> HostArray:
        """Longest first: like lengths together, and a batch that is too large fails at once."""
        order = np.argsort(-lengths, kind="stable")
        results: HostArray | None = None
        with tqdm(total=len(order), desc=progress, disable=progress is None, leave=False) as bar:
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                vectors = run(rows)[: len(rows)]
                if results is None:
                    results = np.zeros((len(order), vectors.shape[1]), np.float32)
                results[rows] = vectors
                bar.update(len(rows))
        if results is None:
            raise MrlError("there is nothing to embed", hint="pass one clip or text, or more")
        return results

    def _fill(self, rows: HostArray) -> HostArray:
        """Rows of a whole batch, the first standing in for those that are missing.

        A power of two, so that one clip alone does not cost a whole batch.
        """
        size = self._devices
        while size < len(rows):
            size *= 2
        return np.concatenate((rows, np.full(min(size, self.batch_size) - len(rows), rows[0])))

    def _put(self, arrays: Any) -> Any:
        return arrays if self._sharding is None else put_global(arrays, self._sharding)


def padded_length(samples: int) -> int:
    """The next of a geometric row of lengths, from one second on."""
    size = SECOND
    while size < samples:
        size = -(-int(size * GROWTH) // 320) * 320
    return size
