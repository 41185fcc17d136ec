"""Batches as a pure function of (seed, step), read by Grain.

Clips of like length share a batch, so that there are few shapes to compile; every host
computes the same plan and reads its own rows of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import Batch, StoredSpeech
from mrl_jax.core.distributed import host_rows
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.plan import Augment, BatchPlan, _sizes_by_bucket
from mrl_jax.data.text.prompts import prompts_of
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens


@runtime_checkable
class Examples(Protocol):
    """What batches are made of: columns, and clips by index."""

    ids: list[str]
    num_samples: HostArray
    texts: list[str]
    tasks: list[str]
    transcripts: list[str | None]
    document_ids: list[str]

    def __len__(self) -> int: ...

    def clip(self, index: int) -> HostArray: ...


@runtime_checkable
class Rows(Protocol):
    """Vectors by number, wherever they are."""

    def __getitem__(self, rows: Any, /) -> HostArray: ...


@runtime_checkable
class SpeechRows(Protocol):
    """What the speech tower said of every clip, computed before: a `SpeechCache`."""

    frames: HostArray

    def rows(self, clips: HostArray, size: int) -> StoredSpeech: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How examples become batches.

    Attributes:
        batch_size: pairs in a step, over all devices of all hosts.
        num_buckets: clip lengths to pad to, and so shapes to compile.
        task_homogeneous: pairs of one task only in each batch.
        prompts: sentence of each task, put before its queries.
        max_text_tokens: longer documents lose their tail.
        prefetch: batches made ahead by threads.
        workers: processes that make batches; 0 makes them in this one.
    """

    batch_size: int = 16
    num_buckets: int = 4
    task_homogeneous: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_text_tokens: int = 512
    prefetch: int = 4
    workers: int = 0

    def __post_init__(self) -> None:
        if self.prefetch < 1 or self.workers < 0:
            raise MrlError(
                f"data.batch.prefetch is {self.prefetch} and data.batch.workers {self.workers}, "
                "expected 1 or more, and 0 or more"
            )


class BatchSource:
    """Batches by step number; safe to read from several threads and processes.

    Args:
        examples: the data set.
        tokenizer: the text tower's.
        config: how to batch.
        seed: order of the examples, and augmentation.
        prepare: applied to each clip last, `normalize_clip` where the tower wants it.
        min_samples: clips shorter than this are an error.
        augment: changes a training clip; its randomness is a function of (seed, step,
            row), so that a resumed run hears the same.
        stretch: the most that `augment` makes a clip longer by.
        shard: (this host's number, number of hosts).
        vectors: of the documents, computed before: one of each text, and the place of every
            example's among them. Batches then hold vectors instead of tokens.
        speech: of the clips, computed before. Batches then hold it instead of samples.

    Raises:
        MrlError: too few examples, a clip too short, a task without a prompt, rows that
            cannot be shared out evenly.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: TextTokenizer,
        config: BatchConfig,
        *,
        seed: int,
        prepare: Callable[[HostArray], HostArray],
        min_samples: int,
        augment: Augment | None = None,
        stretch: float = 1.0,
        shard: tuple[int, int] = (0, 1),
        vectors: tuple[Rows, HostArray] | None = None,
        speech: SpeechRows | None = None,
    ):
        if config.batch_size % shard[1]:
            raise MrlError(
                f"batch_size is {config.batch_size}, expected a multiple of the {shard[1]} hosts",
                hint="change data.batch.batch_size",
            )
        _check_lengths(examples, min_samples)
        self._examples = examples
        self._prepare, self._augment = prepare, augment
        self._seed, self._shard = seed, shard
        self._min_samples = min_samples
        tasks = sorted(set(examples.tasks))
        task_of = np.asarray([tasks.index(task) for task in examples.tasks], np.int64)
        self.plan = BatchPlan(
            np.ceil(np.asarray(examples.num_samples) * stretch).astype(np.int64),
            task_of if config.task_homogeneous else np.zeros_like(task_of),
            batch_size=config.batch_size,
            num_buckets=config.num_buckets,
            seed=seed,
        )
        self._speech = speech
        self._frames = [0] * len(self.plan.sizes)
        if speech is not None:
            self._frames = _sizes_by_bucket(speech.frames, self.plan)
        self._vectors = vectors
        self._documents: list[list[int]] = []
        self._document_size = [0] * len(self.plan.sizes)
        if vectors is None:
            self._documents = tokenizer.encode(examples.texts)
            lengths = np.asarray([len(document) for document in self._documents], np.int64)
            self._document_size = _sizes_by_bucket(lengths, self.plan)
        prompts = prompts_of(len(tasks), config.prompts, tasks=tasks)
        self._prompt, self._prompt_mask = pad_tokens(tokenizer.encode_prompts(prompts))
        self._task_of = task_of
        self._document_ids = _identities(examples.document_ids)
        self._query_ids = _identities(
            [
                f"said:{said}" if said else f"id:{key}"
                for said, key in zip(examples.transcripts, examples.ids, strict=True)
            ]
        )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(S, L) of every bucket: what a step may be compiled for."""
        return list(zip(self.plan.sizes.tolist(), self._document_size, strict=True))

    def __len__(self) -> int:
        return 1 << 40  # Epochs follow one another without end.

    def __getitem__(self, step: int) -> Batch:
        """This host's rows of batch `step`."""
        mine = host_rows(self.plan.batch_size, self._shard)
        return self.rows(step, mine.start, mine.stop)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` of batch `step`, whichever host's they are."""
        bucket, everyone = self.plan(int(step))
        mine = everyone[start:stop]
        speech = None
        if self._speech is None:
            samples, lengths = self._clips(mine, int(self.plan.sizes[bucket]), int(step), start)
        else:
            speech = self._speech.rows(mine, self._frames[bucket])
            samples = np.zeros((len(mine), 0), np.float32)
            lengths = np.asarray(self._examples.num_samples)[mine].astype(np.int32)
        vectors, tokens = None, [[] for _ in mine]
        if self._vectors is None:
            tokens = [self._documents[index] for index in mine]
        else:
            held, place = self._vectors
            vectors = np.asarray(held[place[mine]], np.float32)
        document, document_mask = pad_tokens(tokens, self._document_size[bucket])
        tasks = self._task_of[mine]
        return Batch(
            samples=samples,
            lengths=lengths,
            prompt=self._prompt[tasks],
            prompt_mask=self._prompt_mask[tasks],
            document=document,
            document_mask=document_mask,
            query_ids=self._query_ids[mine],
            document_ids=self._document_ids[mine],
            rows=np.ones(len(mine), np.bool_),
            document_vectors=vectors,
            speech=speech,
        )

    def _clips(
        self, mine: HostArray, size: int, step: int, start: int
    ) -> tuple[HostArray, HostArray]:
        """Clips [B, size], changed, prepared and padded, and the length of each."""
        samples = np.zeros((len(mine), size), np.float32)
        lengths = np.zeros(len(mine), np.int32)
        for row, index in enumerate(mine):
            clip = self._examples.clip(int(index))
            if self._augment is not None:
                rng = np.random.default_rng((self._seed, step, start + row))
                clip = self._augment(clip, rng)[:size]
                if len(clip) < self._min_samples:  # Cut too short to be heard.
                    clip = np.pad(clip, (0, self._min_samples - len(clip)))
            clip = self._prepare(clip)
            samples[row, : len(clip)], lengths[row] = clip, len(clip)
        return samples, lengths


def _check_lengths(examples: Examples, min_samples: int) -> None:
    if not len(examples):
        raise MrlError("there is no example to train on")
    short = np.flatnonzero(np.asarray(examples.num_samples) < min_samples)
    if len(short):
        first = int(short[0])
        raise MrlError(
            f"{len(short)} clips are shorter than the {min_samples} samples of one speech "
            f"token, the first is {examples.ids[first]} with {examples.num_samples[first]}",
            hint="build the data set again with a longer --min-seconds",
        )


def _identities(keys: Sequence[str]) -> HostArray:
    return np.unique(np.asarray(keys), return_inverse=True)[1].astype(np.int32)
