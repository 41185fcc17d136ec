"""Batches of clips and documents, as a pure function of (seed, step).

Clips of similar length share a batch, so that there are few shapes to compile; every host
computes the same plan and reads its own rows of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import Batch
from mrl_jax.core.distributed import host_rows
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.mix import describe_mix, draws_of
from mrl_jax.data.batches.plan import BatchPlan, ClipBatchConfig, identities, sizes_by_bucket
from mrl_jax.data.cache.files import CachedArray
from mrl_jax.data.cache.speech import SpeechCache
from mrl_jax.data.text.prompts import prompts_of
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens


@runtime_checkable
class Examples(Protocol):
    """The examples of a data set: columns, and clips by index."""

    ids: list[str]
    num_samples: HostArray
    texts: list[str]
    tasks: list[str]
    transcripts: list[str | None]
    document_ids: list[str]
    weights: HostArray | None

    def __len__(self) -> int: ...

    def clip(self, index: int) -> HostArray: ...


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchConfig(ClipBatchConfig):
    """How pairs of a clip and a document become batches.

    Attributes:
        task_homogeneous: pairs of one task only in each batch.
        prompts: sentence of each task, put before its queries.
        max_text_tokens: longer documents lose their tail.
    """

    task_homogeneous: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_text_tokens: int = 512


class BatchSource:
    """Batches by step number; safe to read from several threads and processes.

    Args:
        examples, tokenizer, config: the data set, the text tower's tokenizer, and the sizes.
        seed: of the order of the examples, and of augmentation.
        transform: of each clip; clips shorter than its `min_samples` are an error.
        shard: (this host's number, number of hosts).
        vectors: of the documents, computed before: one of each text, and the place of every
            example's among them. Batches then hold vectors instead of tokens.
        speech: of the clips, computed before. Batches then hold it instead of samples.

    Attributes:
        plan: which examples stand in which batch.
        mix: a line of each task's share; empty where all examples are drawn alike.

    Raises:
        MrlError: too few examples, a clip too short, a task without a prompt, rows that
            cannot be divided evenly among hosts, shares of tasks that cannot be had.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: TextTokenizer,
        config: BatchConfig,
        *,
        seed: int,
        transform: ClipTransform,
        shard: tuple[int, int] = (0, 1),
        vectors: tuple[CachedArray | HostArray, HostArray] | None = None,
        speech: SpeechCache | None = None,
    ):
        if config.batch_size % shard[1]:
            expected = f"a multiple of the {shard[1]} hosts"
            problem = f"batch_size is {config.batch_size}, expected {expected}"
            raise MrlError(problem, hint="change data.batch.batch_size")
        _check_lengths(examples, transform.min_samples)
        self._examples, self._transform = examples, transform
        self._seed, self._shard = seed, shard
        tasks = sorted(set(examples.tasks))
        task_of = np.asarray([tasks.index(task) for task in examples.tasks], np.int64)
        draws = draws_of(
            examples.tasks,
            examples.weights,
            config.mix,
            batch_size=config.batch_size,
            one_task=config.task_homogeneous,
        )
        self.mix = "" if draws is None else describe_mix(examples.tasks, draws)
        self.plan = BatchPlan(
            transform.stretched(examples.num_samples),
            task_of if config.task_homogeneous else np.zeros_like(task_of),
            batch_size=config.batch_size,
            num_buckets=config.num_buckets,
            seed=seed,
            draws=draws,
        )
        self._speech, self._vectors = speech, vectors
        self._frames = [] if speech is None else sizes_by_bucket(speech.frames, self.plan)
        self._documents: list[list[int]] = []
        self._document_size = [0] * len(self.plan.sizes)
        if vectors is None:
            self._documents = tokenizer.encode_documents(examples.texts)
            lengths = np.asarray([len(document) for document in self._documents], np.int64)
            self._document_size = sizes_by_bucket(lengths, self.plan)
        prompts = prompts_of(len(tasks), config.prompts, tasks=tasks)
        self._prompt, self._prompt_mask = pad_tokens(tokenizer.encode_prompts(prompts))
        self._task_of = task_of
        self._document_ids = identities(examples.document_ids)
        queries = zip(examples.transcripts, examples.ids, strict=True)
        self._query_ids = identities(
            f"transcript:{text}" if text else f"id:{key}" for text, key in queries
        )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(S, L) of every bucket: what a step may be compiled for."""
        return list(zip(self.plan.sizes.tolist(), self._document_size, strict=True))

    def __len__(self) -> int:
        return 1 << 40  # Epochs follow one another without end.

    def identities_of(self, step: int) -> tuple[HostArray, HostArray]:
        """The ids of queries and of documents of all rows of batch `step`, as in `Batch`."""
        _, everyone = self.plan(step)
        return self._query_ids[everyone], self._document_ids[everyone]

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
            size, key = int(self.plan.sizes[bucket]), (self._seed, int(step), start)
            samples, lengths = self._transform.read(self._examples.clip, mine, size, key)
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


def _check_lengths(examples: Examples, min_samples: int) -> None:
    if not len(examples):
        raise MrlError("there is no example to train on")
    short = np.flatnonzero(np.asarray(examples.num_samples) < min_samples)
    if len(short):
        first = f"{examples.ids[short[0]]} with {examples.num_samples[short[0]]}"
        least = f"{min_samples} samples of one speech token"
        problem = f"{len(short)} clips are shorter than the {least}, the first is {first}"
        raise MrlError(problem, hint="build the data set again with a longer --min-seconds")
