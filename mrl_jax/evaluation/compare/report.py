"""`mrl-jax eval compare`: trained models and cascades on one retrieval set, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from mrl_jax.core.errors import MrlError, readable
from mrl_jax.core.hub import hub_name, shown_model
from mrl_jax.core.paths import user_path
from mrl_jax.core.text import check_text
from mrl_jax.data.sets.digests import digest_lines, digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import Query
from mrl_jax.data.text.prompts import check_task
from mrl_jax.evaluation import encoded_set
from mrl_jax.evaluation.compare import figures, measure, stages
from mrl_jax.evaluation.compare.cascades import check_queries
from mrl_jax.evaluation.compare.measure import Info, Task
from mrl_jax.evaluation.compare.options import CompareOptions
from mrl_jax.evaluation.compare.systems import METRICS, System, system_differences, system_means
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.records import Record, Source, write_jsonl
from mrl_jax.evaluation.scoring import check_dims, judgements_of
from mrl_jax.inference.hub_models import model_folder

FIGURE = FigureFile("systems.png", "nDCG@10 against dimension, with 95 % intervals")
SUMMARY = """{systems} on the same {queries} queries, searched in the same {documents} documents.
Each system encoded the queries once, and the documents were encoded once for all; every
dimension is a prefix of those, or has its own query vectors where a dual encoder makes them.
Documents are kept in float32, four bytes a coordinate. {prompts}

Intervals are 95 % confidence intervals of the mean, from a bootstrap over query texts{speakers}.
Paired tests {tests}; p-values are also given
as adjusted by Holm, for all pairs and dimensions together.

Milliseconds are the median of {repeats} runs of one query alone, that of median length
({length}), from samples in memory to its vector, on {device}, once compiled. FLOPs are those of
the same run as XLA counts them in the program with all layers unrolled. Neither holds the search
among documents, which is the same for all. Parameters are those of both towers and the head."""


def report_compare(options: CompareOptions) -> str:
    """Measure every system, write the report folder, and return its table of nDCG@10.

    The folder appears whole: report.md, report.html, results.jsonl (entries of a record
    name its system), queries.jsonl (every query's values at each dimension), systems.png and,
    where there are cascades, stages.jsonl (every query's words at each stage).

    Raises:
        MrlError: a name twice; systems of different dims or text towers; a model, a cascade
            or a set that cannot be read, or do not go together; `out` exists.
    """
    folders = named_folders(options.models)
    infos = {name: measure.read_system(folder) for name, folder in folders.items()}
    dims = check_alike(infos, options.dims)
    data = encoded_set.load_set(options)
    for name, info in infos.items():
        check_task(options.task, info.prompts, folders[name])
    judged = data.judged_only()
    judgements = judgements_of(judged)
    columns = {
        name: check_queries(name, info.config, judged, options.data)
        for name, info in measure.cascades_of(infos).items()
    }
    with report_folder(options, *folders.values()) as staging:
        rate = measure.recording_rate(folders, infos)
        task = Task(
            data=judged,
            judgements=judgements,
            clusters=encoded_set.clusters_of(judged, judgements),
            dims=dims,
            timed=encoded_set.median_query(judged, rate),
            rate=rate,
            max_seconds=options.max_seconds,
            verify=options.verify,
        )
        systems = measure.measure_systems(folders, infos, columns, task)
        source = Source(
            data=str(options.data),
            data_digest=digest_retrieval_set(data),
            model=", ".join(f"{name}={shown_model(folder)}" for name, folder in folders.items()),
            model_digest=digest_lines(info.digest for info in infos.values()),
            commit=library_commit(),
        )
        return _write(staging, systems, task, source, options.set_name)


def named_folders(models: Sequence[str]) -> dict[str, Path]:
    """Name to folder, of NAME=DIR or DIR.

    Raises:
        MrlError: an empty name or folder, a name twice.
    """
    folders: dict[str, Path] = {}
    for model in models:
        name, equals, folder = str(model).partition("=")
        check_text(name if equals else "", "the name", where="--models")
        if not equals or user_path(model).is_dir():
            path = user_path(model)
            hub = None if path.exists() else hub_name(str(model))
            name = readable(path.resolve().name) if hub is None else Path(hub.hub_id).name
            folder = str(model)
        if not name or not folder:
            raise MrlError(f"{model!r} names no model", where="--models", hint="write NAME=DIR")
        if name in folders:
            raise MrlError(
                f"two systems are called {name!r}: {folders[name]} and {folder}",
                where="--models",
                hint="give each a name of its own: NAME=DIR",
            )
        folders[name] = model_folder(folder)
    return folders


def check_alike(infos: Mapping[str, Info], dims: Sequence[int] | None) -> tuple[int, ...]:
    """The dims of a comparison, the widest first.

    Args:
        infos: of the systems by name.
        dims: to compare at; by default those that all have.

    Raises:
        MrlError: text towers differ, or dims do and none are given; a dim that some
            system does not have.
    """
    (first, one), *others = infos.items()
    for name, info in others:
        if info.text.digest != one.text.digest:
            raise MrlError(
                f"{first} and {name} have different text towers (digests {one.text.digest[:12]} "
                f"and {info.text.digest[:12]}), so they do not search the same documents",
                where="--models",
                hint="compare systems over one text tower",
            )
        if dims is None and set(info.dims) != set(one.dims):
            dims_of = [",".join(map(str, sorted(i.dims, reverse=True))) for i in (one, info)]
            common = sorted(set(one.dims) & set(info.dims), reverse=True)
            hint = f"pass --dims {','.join(map(str, common))}" if common else "train one of them"
            raise MrlError(
                f"{first} has the dimensions {dims_of[0]} and {name} has {dims_of[1]}",
                where="--models",
                hint=hint if common else f"{hint} on the other's",
            )
    if dims is None:
        return tuple(sorted(one.dims, reverse=True))
    for dim in dims:
        for name, info in infos.items():
            if dim not in info.dims:
                raise MrlError(
                    f"{name} has the dimensions {', '.join(map(str, info.dims))}, not {dim}",
                    where="--dims",
                    hint=f"leave {dim} out",
                )
    check_dims(dims, max(one.dims), where="--dims")
    return tuple(dims)


def _write(staging: Path, systems: Sequence[System], task: Task, source: Source, name: str) -> str:
    """Tables, records and the figure of the set `name`; returns the table of nDCG@10."""
    means = system_means(systems, task.clusters)
    pairs = system_differences(systems, task.clusters)
    records = figures.system_records(systems, means, pairs)
    tables = {}
    for metric in reversed(METRICS):
        k = metric.partition("@")[2]
        chance = task.judgements.chance(int(k))
        records.append(Record(metric=f"{metric} of chance", value=chance))
        table = figures.score_table(systems, means, metric, chance=chance)
        tables[f"nDCG@{k} at each dimension"] = table
    tables["Cost of a query"] = figures.cost_table(systems)
    if pairs:
        tables["Differences in nDCG@10"] = figures.system_differences_table(pairs)
    more, rows = stages.stage_tables(systems, means, task.clusters)
    if any(system.run is not None for system in systems):
        write_jsonl(staging / stages.STAGES, stages.stage_rows(systems, task))
    chance = task.judgements.chance()
    figures.plot_systems(staging / FIGURE.name, systems, means, chance=chance)
    write_jsonl(staging / "queries.jsonl", _query_rows(systems, task))
    device = jax.devices()[0]
    summary = SUMMARY.format(
        prompts=_prompts(task.data.queries),
        systems=f"{len(systems)} system{'s' if len(systems) > 1 else ''}",
        queries=len(task.data.queries),
        documents=len(task.data.corpus),
        speakers=" and speakers" if task.clusters.speakers else "",
        tests=task.clusters.how_tested,
        repeats=encoded_set.REPEATS,
        length=task.length,
        device=device.device_kind if device.platform != "cpu" else "the CPU",
    )
    return write_report(
        staging,
        title=f"Systems: {name}",
        summary=summary + stages.stages_summary(systems, task),
        records=records + rows,
        source=source,
        issues=task.data.issues,
        tables=tables | more,
        figures=[FIGURE],
    )


def _prompts(queries: Sequence[Query]) -> str:
    """The prompts given in words or by a task, for which each system has its own."""
    prompts = sorted({query.prompt for query in queries if query.prompt is not None})
    tasks = sorted({query.task for query in queries if query.task and query.prompt is None})
    sentences = []
    if prompts:
        sentences.append(f"Before queries stands {' or '.join(map(repr, prompts))}.")
    if tasks:
        each = " and ".join(tasks)
        sentences.append(f"Each system puts its own prompt before queries of {each}.")
    return " ".join(sentences) or "No prompt stands before the queries."


def _query_rows(systems: Sequence[System], task: Task) -> list[dict[str, object]]:
    queries = [task.data.queries[row] for row in task.judgements.judged]
    return [
        {
            "system": system.name,
            "query": query.id,
            "dim": dim,
            "transcript": query.transcript or query.text,
            "speaker": query.speaker,
            **{metric: float(column[place]) for metric, column in values.items()},
        }
        for system in systems
        for dim, values in system.scores.items()
        for place, query in enumerate(queries)
    ]
