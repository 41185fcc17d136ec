"""`eval.py compare`: any number of trained systems on one retrieval set, side by side."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from mrl_jax import param_tree
from mrl_jax.array_types import HostArray
from mrl_jax.data.digests import digest_lines
from mrl_jax.data.named_sets import load_retrieval_set
from mrl_jax.data.retrieval_set import Query, RetrievalSet, load_query_audio
from mrl_jax.data.set_digest import digest_retrieval_set
from mrl_jax.embedder import Embedder
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.comparison import Clusters
from mrl_jax.evaluation.records import Record, Source, write_jsonl
from mrl_jax.evaluation.retrieval import (
    Judgements,
    check_dims,
    evaluate_retrieval,
    judgements_of,
)
from mrl_jax.evaluation.systems import (
    METRICS,
    Cost,
    System,
    cost_table,
    plot_systems,
    score_table,
    system_differences,
    system_differences_table,
    system_means,
    system_records,
)
from mrl_jax.measured_set import clusters_of, encode_corpus, encode_queries, set_name
from mrl_jax.model_folder import ModelInfo, read_model_info
from mrl_jax.report_folder import library_commit, report_folder, write_report
from mrl_jax.staging import check_apart

KS = (5, 10)
REPEATS = 5
PICTURE = "systems.png"
SUMMARY = """{systems} on the same {queries} queries, searched in the same {documents} documents.
Each system encoded the queries once, and the documents were encoded once for all; every
dimension is a prefix of those, or has its own query vectors where a dual encoder makes them.
Documents are kept in float32, four bytes a coordinate.

Intervals hold the mean in 95 of 100 such samples of queries: bootstrap over their words{speakers}.
Paired tests flip the signs of whole clusters; p-values are also given as adjusted by Holm, for
all pairs and dimensions together.

Milliseconds are the median of {repeats} runs of one query alone, that of median length
({length}), from samples in memory to its vector, on {device}, once compiled. FLOPs are those of
the same run as XLA counts them in the program with all layers unrolled. Neither holds the search
among documents, which is the same for all. Parameters are those of both towers and the head."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What every system of a comparison is measured on.

    Attributes:
        data: the set, less the queries without a relevant document.
        judgements, clusters: of it.
        dims: that all systems are searched at.
    """

    data: RetrievalSet
    judgements: Judgements
    clusters: Clusters
    dims: tuple[int, ...]


def report_compare(
    models: Sequence[str],
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    overwrite: bool = False,
) -> str:
    """Measure every system, write the report folder, and return its table of nDCG@10.

    The folder appears whole: report.md, report.html, results.jsonl (entries of a record
    name its system), queries.jsonl (every query's values at each dimension) and systems.png.

    Args:
        models: NAME=DIR, or DIR for one that is called as its folder.
        data: folder of a set, or the name of a published one.
        out: folder of the report.
        dims: prefixes; by default those that all systems were trained on.
        overwrite: replace an earlier report.

    Raises:
        MrlError: a name twice; systems of different dims or text towers; a model or a set
            that cannot be read; `out` exists.
    """
    folders = named_folders(models)
    infos = {name: read_model_info(folder) for name, folder in folders.items()}
    dims = check_alike(infos, dims)
    loaded = load_retrieval_set(data)
    for folder in folders.values():
        check_apart(folder, out)
    with report_folder(out, overwrite=overwrite) as staging:
        judged = loaded.judged_only()
        judgements = judgements_of(judged)
        task = Task(
            data=judged,
            judgements=judgements,
            clusters=clusters_of(judged, judgements),
            dims=dims,
        )
        # Other systems than models of this library join here, as `System`s.
        systems, length = measure_models(folders, task)
        digests = [
            digest_lines((i.speech.digest, i.text.digest, i.head_digest)) for i in infos.values()
        ]
        source = Source(
            data=str(data),
            data_digest=digest_retrieval_set(loaded),
            model=", ".join(f"{name}={folder}" for name, folder in folders.items()),
            model_digest=digest_lines(digests),
            commit=library_commit(),
        )
        return write_comparison(staging, systems, task, source, set_name(data), length)


def named_folders(models: Sequence[str]) -> dict[str, Path]:
    """Name to folder, of NAME=DIR or DIR.

    Raises:
        MrlError: an empty name or folder, a name twice.
    """
    found: dict[str, Path] = {}
    for model in models:
        name, equals, folder = str(model).partition("=")
        if not equals or Path(model).is_dir():
            name, folder = Path(model).resolve().name, str(model)
        if not name or not folder:
            raise MrlError(f"{model!r} names no model", where="--models", mend="write NAME=DIR")
        if name in found:
            raise MrlError(
                f"two systems are called {name!r}: {found[name]} and {folder}",
                where="--models",
                mend="give each a name of its own: NAME=DIR",
            )
        found[name] = Path(folder)
    return found


def check_alike(infos: dict[str, ModelInfo], dims: Sequence[int] | None) -> tuple[int, ...]:
    """The dims of a comparison, the widest first.

    Args:
        infos: of the systems by name.
        dims: asked for; by default those that all were trained on.

    Raises:
        MrlError: text towers differ, or trained dims do and none are asked for; a dim that
            some system was not trained on.
    """
    (first, one), *others = infos.items()
    for name, info in others:
        if info.text.digest != one.text.digest:
            raise MrlError(
                f"{first} and {name} have different text towers (digests {one.text.digest[:12]} "
                f"and {info.text.digest[:12]}), so they do not search the same documents",
                where="--models",
                mend="compare systems over one text tower",
            )
        if dims is None and set(info.dims) != set(one.dims):
            told = [",".join(map(str, sorted(i.dims, reverse=True))) for i in (one, info)]
            common = sorted(set(one.dims) & set(info.dims), reverse=True)
            mend = f"pass --dims {','.join(map(str, common))}" if common else "train one of them"
            raise MrlError(
                f"{first} was trained on the dimensions {told[0]} and {name} on {told[1]}",
                where="--models",
                mend=mend if common else f"{mend} on the other's",
            )
    if dims is None:
        return tuple(sorted(one.dims, reverse=True))
    for dim in dims:
        for name, info in infos.items():
            if dim not in info.dims:
                raise MrlError(
                    f"{name} was not trained on the dimension {dim}, only on "
                    f"{', '.join(map(str, info.dims))}",
                    where="--dims",
                    mend=f"leave {dim} out",
                )
    check_dims(dims, max(one.dims), where="--dims")
    return tuple(dims)


def measure_models(folders: dict[str, Path], task: Task) -> tuple[list[System], str]:
    """Each model on the task, and the length of the query that was timed.

    Queries are encoded once a model. Documents are encoded once in all, and again only where
    a model computes in another dtype, or cuts texts elsewhere.
    """
    systems, timed, length = [], None, ""
    corpora: dict[tuple[object, ...], HostArray] = {}
    for name, folder in folders.items():
        embedder = Embedder.load(folder)
        info, model = embedder.info, embedder.model
        corpus = (info.text.digest, str(model.text.dtype), info.max_text_tokens)
        if corpus not in corpora:
            corpora[corpus] = encode_corpus(embedder, task.data)
        results = evaluate_retrieval(
            encode_queries(embedder, task.data),
            corpora[corpus],
            task.judgements,
            dims=task.dims,
            ks=KS,
        )
        rate = model.speech.config.sample_rate
        timed = _median_query(task.data, rate) if timed is None else timed
        seconds, flops, length = _query_cost(embedder, timed)
        cost = Cost(
            parameters=param_tree.count(param_tree.flat_weights(model)),
            trained=param_tree.count(param_tree.flatten(embedder.encoder.trained)),
            seconds=seconds,
            flops=flops,
        )
        kind = info.kind.replace("_", " ")
        if info.kind == "dual_encoder" and not model.separate_dims:
            kind += ", nested"
        scores = {result.dim: result.per_query for result in results}
        systems.append(System(name=name, kind=kind, scores=scores, cost=cost))
    return systems, length


def time_query(embed: Callable[[], object]) -> float:
    """Seconds of the median of some runs, after one that compiles."""
    embed()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        embed()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def write_comparison(
    staging: Path,
    systems: Sequence[System],
    task: Task,
    source: Source,
    name: str,
    length: str,
) -> str:
    """Write tables, records and the picture into `staging`; returns the table of nDCG@10.

    Args:
        staging: of `report_folder`.
        systems: with the same dims, and one value a judged query.
        task: what they were measured on.
        source: of the records.
        name: of the set.
        length: of the query that was timed.
    """
    means = system_means(systems, task.clusters)
    pairs = system_differences(systems, task.clusters)
    records = system_records(systems, means, pairs)
    tables = {}
    for metric in reversed(METRICS):
        chance = task.judgements.chance(int(metric.partition("@")[2]))
        records.append(Record(metric=f"{metric} of chance", value=chance))
        table = score_table(systems, means, metric, chance=chance)
        tables[f"nDCG@{metric.partition('@')[2]} at each dimension"] = table
    tables["Cost of a query"] = cost_table(systems)
    if pairs:
        tables["Differences in nDCG@10"] = system_differences_table(pairs)
    plot_systems(staging / PICTURE, systems, means, chance=task.judgements.chance())
    write_jsonl(staging / "queries.jsonl", _per_query(systems, task))
    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else "the CPU"
    write_report(
        staging,
        title=f"Systems: {name}",
        summary=SUMMARY.format(
            systems=f"{len(systems)} system{'s' if len(systems) > 1 else ''}",
            queries=len(task.data.queries),
            documents=len(task.data.corpus),
            speakers=" and speakers" if task.clusters.speakers else "",
            repeats=REPEATS,
            length=length,
            device=kind,
        ),
        records=records,
        source=source,
        tables=tables,
        pictures=[(PICTURE, "nDCG@10 against dimension, with 95 % intervals")],
    )
    return next(iter(tables.values()))


def _median_query(data: RetrievalSet, rate: int) -> Query:
    """The query of median length."""
    spoken = data.queries[0].audio is not None
    lengths = [len(load_query_audio(q, rate) if spoken else q.text or "") for q in data.queries]
    return data.queries[int(np.argsort(lengths, kind="stable")[len(lengths) // 2])]


def _query_cost(embedder: Embedder, query: Query) -> tuple[float, float, str]:
    """Seconds and FLOPs of one query alone, and its length in words."""
    rate, encoder, task = embedder.model.speech.config.sample_rate, embedder.encoder, query.task
    asked = query.text or "" if query.audio is None else load_query_audio(query, rate)
    length = f"{len(asked)} characters" if query.audio is None else f"{len(asked) / rate:.1f} s"
    seconds = time_query(encoder.alone(asked, task=task or ""))
    return seconds, encoder.flops(asked, task=task or ""), length


def _per_query(systems: Sequence[System], task: Task) -> list[dict[str, object]]:
    rows = []
    for system in systems:
        for dim, values in system.scores.items():
            for place, row in enumerate(task.judgements.judged):
                query = task.data.queries[row]
                rows.append(
                    {
                        "system": system.name,
                        "query": query.id,
                        "dim": dim,
                        "transcript": query.transcript or query.text,
                        "speaker": query.speaker,
                        **{metric: float(values[metric][place]) for metric in values},
                    }
                )
    return rows
