"""What a service computes: vectors of speech and text, and the documents nearest to them."""

import asyncio
import contextlib
import dataclasses
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float32
from tqdm import tqdm

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import clip_seconds, decode_clip
from mrl_jax.data.audio.encode import flac_bytes, quantize
from mrl_jax.inference.batching import GROWTH, SECOND
from mrl_jax.inference.index.hits import Hit
from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.serving.batcher import Batcher, QueueFullError
from mrl_jax.serving.config import ServeConfig
from mrl_jax.serving.requests import check_length

WARM_COUNTS = (10, 100)
"""Documents that are searched for are rounded up to a power of ten, so that few programs are
compiled: these before the first request."""
COMPILED = "/jax/core/compile/backend_compile_duration"
STEP_TOKENS = 16
WARM_THREADS = 8
"""That compile at most: each holds a batch of the longest recordings while it runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked of a recording or a text; equal ones are done together.

    Attributes:
        kind: of the input.
        dim: coordinates of the vector.
        count: documents to find; 0 for the vector alone.
        task, prompt: put before the query; at most one of them.
    """

    kind: Literal["speech", "text"]
    dim: int
    count: int = 0
    task: str | None = None
    prompt: str | None = None


class Engine:
    """Embeds and searches for many requests at once.

    Attributes:
        index: that is searched.
        compilations: programs that were compiled since `warm_up` ended.
    """

    def __init__(self, index: SearchIndex, config: ServeConfig):
        self.index, self.config = index, config
        self.embedder = index.embedder
        # Queries that wait together are one batch, as `warm_up` compiles it.
        encoder = self.embedder.encoder
        encoder.batch_size = max(encoder.batch_size, config.batch_size)
        self.compilations = 0
        self._decoding = 0
        self._views: dict[int, SearchIndex] = {index.dim: index}
        self._making, self._counting = threading.Lock(), threading.Lock()
        self._sizes = sorted({1, min(4, config.batch_size), config.batch_size})
        self._batcher = Batcher(
            self._run,
            batch_size=config.batch_size,
            wait_seconds=config.wait_ms / 1e3,
            queue_size=config.queue_size,
        )
        jax.monitoring.register_event_duration_secs_listener(self._count_compilation)

    @property
    def dims(self) -> list[int]:
        """Those the model was trained with, up to the index's own, which is among them.

        An index of signs has its own alone.
        """
        if self.index.config.precision == "binary":
            return [self.index.dim]
        trained = {dim for dim in self.embedder.info.dims if dim < self.index.dim}
        return sorted(trained | {self.index.dim}, reverse=True)

    @property
    def alive(self) -> bool:
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Queries in the queue."""
        return len(self._batcher)

    @property
    def most_hits(self) -> int:
        """Documents that a search may ask for."""
        return min(self.config.max_hits, len(self.index))

    @contextlib.contextmanager
    def decoding(self, count: int) -> Iterator[None]:
        """Recordings are decoded inside this; to be entered by one thread, that of the requests.

        Raises:
            QueueFullError: with those that wait and those decoded elsewhere the queue is full.
        """
        if self._decoding + self.waiting + count > self.config.queue_size:
            raise QueueFullError
        self._decoding += count
        try:
            yield
        finally:
            self._decoding -= count

    def clip(self, data: bytes, name: str) -> Float32[HostArray, " S"]:
        """A recording of a request at the model's rate.

        Raises:
            MrlError: it is broken, too long, or too short to be embedded.
        """
        limit, rate = self.config.max_seconds, self.embedder.model.speech.config.sample_rate
        seconds = clip_seconds(data, name=name)
        samples = decode_clip(data, rate, name=name, max_seconds=limit + 1)
        if (seconds := max(len(samples) / rate, 0 if np.isinf(seconds) else seconds)) > limit:
            problem = f"the recording has {seconds:.1f} s, and {limit:g} s are the limit"
            raise MrlError(problem, where=name, hint="cut it into parts")
        self.embedder.encoder.check_speech([samples], tasks=None, names=[name])
        return samples

    def check(self, work: Work) -> None:
        """Raises an `MrlError` for what there is not: a dim, a task, so many documents."""
        most = self.most_hits
        if work.count:
            if work.dim not in self.dims:
                known = ", ".join(map(str, self.dims))
                raise MrlError(f"dim is {work.dim}, expected one of {known}")
            if work.count > len(self.index):
                problem = f"k is {work.count}, and the index has {len(self.index)} documents"
                raise MrlError(problem, hint=f"choose 1 to {most}")
            if work.count > most:
                raise MrlError(f"k is {work.count}, expected 1 to {most}")
        elif not 1 <= work.dim <= self.embedder.width:
            raise MrlError(f"dimensions is {work.dim}, expected 1 to {self.embedder.width}")
        if work.task is not None and work.prompt is not None:
            raise MrlError("both task and prompt are given", hint="pass one of them")
        check_length(work.prompt or "", self.config.max_characters, name="the prompt")
        self.embedder.encoder.prompts_of([work.task] if work.task else None, None, 1)

    async def vectors(self, work: Work, inputs: Sequence[Any]) -> Float32[HostArray, "N E"]:
        """Vectors of clips or texts.

        Raises:
            MrlError: an input that cannot be embedded.
            QueueFullError: too many queries wait.
        """
        return np.stack(await self._results(dataclasses.replace(work, count=0), inputs))

    async def search(self, work: Work, query: Any) -> list[Hit]:
        """The documents nearest to a clip or text; raises as `vectors`."""
        count = 10
        while count < work.count:
            count *= 10
        wide = dataclasses.replace(work, count=min(count, len(self.index)))
        (hits,) = await self._results(wide, [query])
        return hits[: work.count]

    async def _results(self, work: Work, inputs: Sequence[Any]) -> list[Any]:
        futures = [asyncio.wrap_future(future) for future in self._batcher.submit(work, inputs)]
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:  # Of a client that went away.
                future.cancel()

    def warm_up(self, *, progress: bool = False) -> int:
        """Compile the programs of the usual lengths and batch sizes; their number."""
        rate = self.embedder.model.speech.config.sample_rate
        lengths, length = [SECOND], float(SECOND)
        while lengths[-1] < self.config.warm_seconds * rate:
            length *= GROWTH
            lengths.append(int(length))
        noise = np.random.default_rng(0).standard_normal(lengths[-1]).astype(np.float32) * 0.1
        # The first recording of another rate loads the libraries that decode and resample.
        self.clip(flac_bytes(quantize(noise[:SECOND]), 3 * rate), "the warm-up")
        width, dim = self.embedder.width, self.index.dim
        jobs: list[tuple[Work, Any]] = [
            *(
                (Work(kind="speech", dim=dim, task=task), noise[:length])
                for task in self._tasks()
                for length in lengths
            ),
            *((Work(kind="text", dim=dim), text) for text in self._texts()),
        ]
        counts = {min(count, len(self.index)) for count in WARM_COUNTS}
        for dim in self.dims:
            jobs += [(Work(kind="text", dim=dim, count=n), "a") for n in sorted(counts)]
        jobs.append((Work(kind="text", dim=width), "a"))
        before = self.compilations
        batches = [(work, [value] * size) for work, value in jobs for size in self._sizes]
        threads = min(os.cpu_count() or 1, WARM_THREADS)
        # Of warnings: each thread silences some, and only around all of them are they put back.
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            # XLA compiles outside of the GIL.
            done = pool.map(lambda batch: self._run(*batch), batches)
            for _ in tqdm(done, "warm up", len(batches), disable=not progress, leave=False):
                pass
        compiled, self.compilations = self.compilations - before, 0
        return compiled

    def stop(self) -> None:
        """Finish what waits, and take nothing more."""
        self._batcher.stop()
        jax.monitoring.unregister_event_duration_listener(self._count_compilation)

    def view(self, dim: int) -> SearchIndex:
        """The index by its first `dim` coordinates, made when it is first asked for."""
        with self._making:
            if dim not in self._views:
                self._views[dim] = self.index.narrowed(dim)
            return self._views[dim]

    def _tasks(self) -> list[str]:
        """Tasks whose prompts are of different padded lengths; "", which has none, first."""
        tasks: dict[int, str] = {}
        for task in ("", *sorted(self.embedder.info.prompts)):
            tasks.setdefault(self.embedder.encoder.prompt_size(task), task)
        return list(tasks.values())

    def _texts(self) -> list[str]:
        """A text of each padded length up to the limit: parts of a document, said again and again.

        Fewer where texts are cut to fewer tokens.
        """
        words = self.index.first_text.split() or ["a"]
        texts: dict[int, str] = {}
        for count in range(1, self.config.warm_tokens + 1):
            text = " ".join(words[n % len(words)] for n in range(count))
            tokens = self.embedder.encoder.token_count(text)
            if tokens > self.config.warm_tokens:
                break
            texts.setdefault(-(-tokens // STEP_TOKENS), text)
        return list(texts.values())

    def _run(self, work: Work, inputs: Sequence[Any]) -> Sequence[Any]:
        """For the thread of the batcher: results of a batch, padded to one of few sizes."""
        size = len(inputs)
        if work.kind == "text" or self.embedder.model.speech.padding == "masked":
            size = next(size for size in self._sizes if size >= len(inputs))
        vectors = self._embed(work, [*inputs, *[inputs[0]] * (size - len(inputs))])
        if not work.count:
            return list(vectors[: len(inputs)])
        return self.view(work.dim).search(vectors, k=work.count)[: len(inputs)]

    def _embed(self, work: Work, inputs: Sequence[Any]) -> HostArray:
        options: dict[str, Any] = {"task": work.task, "prompt": work.prompt, "dim": work.dim}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Of a dim that was not trained.
            if work.kind == "text":
                return self.embedder.embed_text(inputs, **options)
            rate = self.embedder.model.speech.config.sample_rate
            clips = [(clip, rate) for clip in inputs]
            if self.embedder.model.speech.padding == "masked":
                return self.embedder.embed_speech(clips, **options)
            # Padding is read as speech: no clip is padded to the length of another request's.
            return np.concatenate([self.embedder.embed_speech([one], **options) for one in clips])

    def _count_compilation(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == COMPILED:
            with self._counting:
                self.compilations += 1
