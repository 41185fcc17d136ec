"""Clips and texts to unit vectors, in batches of few shapes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mrl_jax.array_types import Float32, HostArray
from mrl_jax.data.text import TextTokenizer, pad_tokens, query_prompt
from mrl_jax.errors import MrlError
from mrl_jax.models.clips import pad_clips
from mrl_jax.models.late_fusion import LateFusion

Rebuild = Callable[[Mapping[str, Any], Mapping[str, Any]], LateFusion]
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
        sharding: where batches go; rows are shared out over its devices.
        batch_size: rows in a batch, rounded up to a multiple of the devices.
    """

    def __init__(
        self,
        rebuild: Rebuild,
        trained: Mapping[str, Any],
        frozen: Mapping[str, Any],
        config_model: LateFusion,
        tokenizer: TextTokenizer,
        *,
        prompts: Mapping[str, str],
        sharding: jax.sharding.Sharding | None = None,
        batch_size: int = 16,
    ):
        devices = 1 if sharding is None else len(sharding.device_set)
        self._devices = devices
        self.batch_size = -(-batch_size // devices) * devices
        self.trained, self.frozen = trained, frozen
        self.prompts = prompts
        self._speech_config = config_model.speech.config
        self._min_samples = config_model.min_samples
        self._reference = config_model.speech.padding == "reference"
        self._tokenizer = tokenizer
        self._sharding = sharding

        def speech(trained: Any, frozen: Any, *inputs: Any) -> Any:
            return rebuild(trained, frozen).embed_speech(*inputs)

        def text(trained: Any, frozen: Any, *inputs: Any) -> Any:
            return rebuild(trained, frozen).embed_text(*inputs)

        self._embed_speech, self._embed_text = jax.jit(speech), jax.jit(text)

    def speech(
        self,
        clips: Sequence[HostArray],
        *,
        tasks: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
        names: Sequence[object] | None = None,
        progress: str | None = None,
    ) -> Float32[HostArray, "N E"]:
        """Embed clips: mono, float, at the tower's sample rate.

        Args:
            clips: one [S] array a clip.
            tasks: task of each clip, whose prompt from the config is used.
            prompts: or the prompt itself of each clip, word for word.
            names: what errors call each clip.
            progress: name of a progress bar.

        Raises:
            MrlError: a clip that cannot be embedded; an unknown task.
        """
        names = [f"clip {i}" for i in range(len(clips))] if names is None else names
        self.check_speech(clips, tasks=tasks, names=names)
        if prompts is None:
            prompts = [self._prompt(task) for task in tasks or [""] * len(clips)]
        lengths = np.asarray([len(clip) for clip in clips], np.int64)
        tokens = self._tokenizer.encode_prompts(prompts)
        prompt_size = max((len(ids) for ids in tokens), default=0)

        def run(rows: HostArray) -> HostArray:
            filled = self._fill(rows)
            # The reference reads padding as speech: nothing is padded beyond the longest.
            longest = int(lengths[rows].max())
            size = longest if self._reference else padded_length(longest)
            samples, counts = pad_clips(
                [clips[i] for i in filled],
                self._speech_config,
                size=size,
                names=[names[i] for i in filled],
            )
            prompt, prompt_mask = pad_tokens([tokens[i] for i in filled], prompt_size)
            inputs = self._put((samples, counts, prompt, prompt_mask))
            return np.asarray(self._embed_speech(self.trained, self.frozen, *inputs))

        return self._in_batches(lengths, run, progress)

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
                    mend="leave the clip out, or join it to its neighbour",
                )
        for task in set(tasks or ()):
            self._prompt(task)

    def text(
        self, texts: Sequence[str], *, progress: str | None = None
    ) -> Float32[HostArray, "N E"]:
        """Embed texts; documents carry no prompt."""
        tokens = self._tokenizer.encode(texts)
        lengths = np.asarray([len(ids) for ids in tokens], np.int64)

        def run(rows: HostArray) -> HostArray:
            size = -(-int(lengths[rows].max()) // 16) * 16
            inputs = self._put(pad_tokens([tokens[i] for i in self._fill(rows)], size))
            return np.asarray(self._embed_text(self.trained, self.frozen, *inputs))

        return self._in_batches(lengths, run, progress)

    def _prompt(self, task: str) -> str:
        if task and self.prompts and task not in self.prompts:
            raise MrlError(
                f"the task {task!r} has no prompt in the model, expected one of "
                f"{', '.join(sorted(self.prompts))}",
                mend="correct the task, or pass the prompt itself",
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
            raise MrlError("there is nothing to embed", mend="pass one clip or text, or more")
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
        return arrays if self._sharding is None else jax.device_put(arrays, self._sharding)


def padded_length(samples: int) -> int:
    """The next of a geometric row of lengths, from one second on."""
    size = SECOND
    while size < samples:
        size = -(-int(size * GROWTH) // 320) * 320
    return size
