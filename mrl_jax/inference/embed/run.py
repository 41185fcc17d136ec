"""Embed a corpus shard by shard: what was written is kept, and a killed run goes on."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart
from mrl_jax.data.audio.decode import clip_seconds
from mrl_jax.data.text.prompts import check_one_prompt
from mrl_jax.inference.embed.inputs import Inputs, Item, ItemDigest, shards_of
from mrl_jax.inference.embed.shards import OutputInfo, ShardFolder, VectorFormat
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.description import reference_to
from mrl_jax.inference.index.embedding import dim_of

SHARD_ROWS = {"text": 16_384, "speech": 2_048}
"""Items of a shard by default."""
TEXT_GROUP = 512
"""Texts that are embedded between two steps of the progress bar."""
SPEECH_GROUP = 64
"""Recordings that are decoded together, while the group before them is embedded."""
GROUP_SECONDS = 1800.0
"""At most so long together, but for one recording that is longer: 115 MB of samples at 16 kHz."""
DECODERS = 4
"""Threads that decode."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How a corpus is embedded and written.

    Attributes:
        dim: length of the prefix to keep; None for the model's width.
        task, prompt: put before each item; at most one of them.
        file_format: "parquet" or "npy".
        shard_rows: items of a shard; None for 16,384 texts, or 2,048 recordings.
        part: (1, 4) embeds the first, fifth, ... shard: the work of one of four processes,
            each of which may run on a machine of its own.
    """

    dim: PositiveInt | None = None
    task: str | None = None
    prompt: str | None = None
    file_format: VectorFormat = "parquet"
    shard_rows: PositiveInt | None = None
    part: tuple[PositiveInt, PositiveInt] = (1, 1)

    def __post_init__(self) -> None:
        check_one_prompt(self.task, self.prompt, "task and prompt")
        part, parts = self.part
        if part > parts:
            hint = f"parts are 1/{parts} to {parts}/{parts}"
            raise MrlError(f"the part is {part} of {parts}", where="part", hint=hint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """What a run did.

    Attributes:
        info: of the output.
        embedded: items whose vectors this run wrote.
        kept: shards that were there already.
        missing: shards of other parts that are not there yet.
        skipped: recordings that this run could not embed.
    """

    info: OutputInfo
    embedded: int
    kept: int
    missing: int
    skipped: int


@checked
def embed_corpus(
    embedder: Embedder,
    inputs: Inputs,
    out: Path,
    config: EmbedConfig,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> EmbedResult:
    """Embed all items of a corpus into a folder of shards; shards that are there are kept.

    Texts of a shard are embedded the longest first; recordings too, and a group of batches is
    decoded while the one before it is embedded. A recording that is broken, too short or too
    long is skipped and named in the output.

    Args:
        embedder: on all devices of this machine.
        overwrite: remove the vectors of another model, input or config first; those of the same
            stay.
        progress: show a progress bar, with items a second and the time left.

    Raises:
        MrlError: the corpus cannot be read, or changes meanwhile; `out` holds something else, or
            another run replaces it; a dim above the width; a task without a prompt; an
            `embedder` with a search config.
    """
    check_apart(inputs.source, out)
    info = _describe(embedder, inputs, config)
    folder = ShardFolder(out, info, overwrite=overwrite)
    part, parts = config.part
    mine = range(part - 1, info.shards, parts)
    missing = {number for number in mine if not folder.is_done(number)}
    embedded = skipped = 0
    digest, written = ItemDigest(inputs.source), []
    with tqdm(total=_rows(info, mine), disable=not progress, desc="embedded", unit="") as bar:
        bar.update(_rows(info, mine) - _rows(info, missing))
        read = digest.of(inputs.items())
        items_of = enumerate(shards_of(read, info.shard_rows)) if missing else ()
        for number, items in items_of:
            if number not in missing:
                continue
            kept, vectors, broken = _embed(embedder, items, info, bar.update)
            folder.write(number, [item.id for item in kept], vectors, broken)
            written.append(number)
            embedded, skipped = embedded + len(kept), skipped + len(broken)
    if missing and digest.hexdigest() != info.input:
        folder.remove(written)
        hint = "embed it again once nothing writes to it"
        raise MrlError("has changed while it was embedded", where=inputs.source, hint=hint)
    return EmbedResult(
        info=info,
        embedded=embedded,
        kept=len(mine) - len(missing),
        missing=sum(not folder.is_done(number) for number in range(info.shards)),
        skipped=skipped,
    )


def _describe(embedder: Embedder, inputs: Inputs, config: EmbedConfig) -> OutputInfo:
    """_embed.json of a run; what cannot be embedded is refused here."""
    if embedder.search_config is not None:
        problem = "the Embedder was loaded with a search config, which no output can name"
        raise MrlError(problem, hint="load it without, and pass dim or a rotation")
    tasks = None if config.task is None else [config.task]
    embedder.encoder.prompts_of(tasks, None, 1)
    if config.dim is not None:
        embedder.check_dim(config.dim, stacklevel=4)
    count, digest = inputs.count_and_digest()
    model = reference_to(embedder)
    return OutputInfo(
        model=model.digest,
        rotation=model.rotation,
        modality=inputs.modality,
        input=digest,
        items=count,
        dim=embedder.width if config.dim is None else config.dim,
        task=config.task,
        prompt=config.prompt,
        file_format=config.file_format,
        shard_rows=config.shard_rows or SHARD_ROWS[inputs.modality],
    )


def _rows(info: OutputInfo, numbers: Iterable[int]) -> int:
    return sum(min(info.shard_rows, info.items - n * info.shard_rows) for n in numbers)


def _embed(
    embedder: Embedder, items: Sequence[Item], info: OutputInfo, done: Callable[[int], object]
) -> tuple[list[Item], HostArray, dict[str, str]]:
    """The items that could be embedded, their vectors, and why others could not, by id."""
    vectors = np.zeros((len(items), info.dim), np.float32)
    groups = _texts(items) if info.modality == "text" else _clips(embedder, items)
    broken: dict[int, str] = {}
    with contextlib.closing(groups):
        for rows, contents, unread in groups:
            broken |= unread
            for row, result in zip(rows, _vectors(embedder, contents, info), strict=True):
                if isinstance(result, MrlError):
                    broken[row] = str(result)
                else:
                    vectors[row] = result
            done(len(rows) + len(unread))
    kept = [row for row in range(len(items)) if row not in broken]
    reasons = {items[row].id: broken[row] for row in sorted(broken)}
    return [items[row] for row in kept], vectors[kept], reasons


Group = tuple[list[int], list[Any], dict[int, str]]
"""Row numbers, what is embedded for them, and rows that could not be read, with the reason."""


def _texts(items: Sequence[Item]) -> Generator[Group, None, None]:
    order = sorted(range(len(items)), key=lambda row: -len(str(items[row].content)))
    for start in range(0, len(order), TEXT_GROUP):
        rows = order[start : start + TEXT_GROUP]
        yield rows, [items[row].content for row in rows], {}


def _clips(embedder: Embedder, items: Sequence[Item]) -> Generator[Group, None, None]:
    """Groups of recordings, the longest first, each decoded while the one before is embedded."""
    with ThreadPoolExecutor(DECODERS) as pool:
        seconds = list(pool.map(_seconds, items))
        groups = _groups(seconds)

        def decode(rows: list[int]) -> list[Future[HostArray | MrlError]]:
            return [pool.submit(_decoded, embedder, items[row]) for row in rows]

        rate = embedder.model.speech.config.sample_rate
        ahead = decode(groups[0])
        for number, rows in enumerate(groups):
            clips = dict(zip(rows, (future.result() for future in ahead), strict=True))
            ahead = decode(groups[number + 1]) if number + 1 < len(groups) else []
            unread = {row: str(clip) for row, clip in clips.items() if isinstance(clip, MrlError)}
            read = [row for row in rows if row not in unread]
            yield read, [(clips[row], rate) for row in read], unread


def _groups(seconds: Sequence[float]) -> list[list[int]]:
    """Numbers of the recordings in groups that fit into memory, the longest first."""
    groups: list[list[int]] = []
    room = 0.0
    for row in sorted(range(len(seconds)), key=lambda row: -seconds[row]):
        if not groups or len(groups[-1]) == SPEECH_GROUP or seconds[row] > room:
            groups.append([])
            room = GROUP_SECONDS
        groups[-1].append(row)
        room -= max(seconds[row], 0.0)
    return groups


def _seconds(item: Item) -> float:
    """Of a recording by its header, to sort by; what cannot be read comes last."""
    if not isinstance(item.content, Path | bytes):
        return -1.0
    try:
        return clip_seconds(item.content, name=item.id)
    except MrlError:
        return -1.0


def _decoded(embedder: Embedder, item: Item) -> HostArray | MrlError:
    try:
        if item.content is None:
            raise MrlError("holds no recording", where=item.id, hint="leave the row out")
        clip = embedder.samples_of(item.content, name=item.id)
        embedder.encoder.check_speech([clip], tasks=None, names=[item.id])
    except MrlError as error:
        return error
    return clip


def _vectors(
    embedder: Embedder, contents: Sequence[Any], info: OutputInfo
) -> Sequence[HostArray | MrlError]:
    """Vectors, or the error of each item alone where a group has one that cannot be embedded."""
    if not contents:
        return []
    embed = embedder.embed_text if info.modality == "text" else embedder.embed_speech
    options = {"task": info.task, "prompt": info.prompt, "dim": dim_of(embedder, info.dim)}
    try:
        return list(embed(contents, **options))
    except MrlError as error:
        if info.modality == "text":
            raise
        if len(contents) == 1:
            return [error]
    return [_vectors(embedder, [content], info)[0] for content in contents]
