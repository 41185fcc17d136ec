"""`mrl-jax eval retrieval`: from a model folder and a retrieval set to a report folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.data.sets.retrieval_set import RetrievalSet
from mrl_jax.evaluation import encoded_set
from mrl_jax.evaluation.report.folder import report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.records import Record, write_jsonl
from mrl_jax.evaluation.report.statistics import metric_title
from mrl_jax.evaluation.retrieval import figures, measure
from mrl_jax.evaluation.retrieval.measure import RetrievalRun
from mrl_jax.evaluation.retrieval.options import RetrievalOptions
from mrl_jax.evaluation.scoring import KS, Ties, evaluate_retrieval, judgements_of
from mrl_jax.inference.embedder import Embedder

TOP = 10
ORDERS = {
    "trec": "by descending id, as trec_eval has them",
    "id": "by ascending id, as sentence-transformers has them",
}


def run_retrieval(
    embedder: Embedder,
    data: RetrievalSet,
    *,
    dims: Sequence[int] | None = None,
    ks: Sequence[int] = KS,
    ties: Ties = "trec",
    binary: bool = False,
) -> RetrievalRun:
    """Encode judged queries and corpus once, and score every prefix.

    Args:
        embedder, data: the model and the set.
        dims: prefixes; those trained by default.
        ks, ties: see `evaluate_retrieval`.
        binary: count every grade above 0 as 1.

    Raises:
        MrlError: a broken recording, queries both spoken and written, a dim above the
            width of the model.
    """
    dims = encoded_set.chosen_dims(embedder, dims)
    data = data.judged_only()
    queries, documents = encoded_set.encode_set(embedder, data)
    judgements = judgements_of(data)
    judgements = judgements.binary() if binary else judgements
    results = evaluate_retrieval(queries, documents, judgements, dims=dims, ks=ks, ties=ties)
    clusters = encoded_set.clusters_of(data, judgements)
    return RetrievalRun(data, judgements, clusters, results)


def report_retrieval(options: RetrievalOptions) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl (one record a metric and
    dimension), queries.jsonl (every metric of every query and dimension), rankings.jsonl
    (the best documents of each query at the first dim) and figures.

    Raises:
        MrlError: the model or the set cannot be used; the report exists.
    """
    opened = encoded_set.open_set(options)
    with report_folder(options, options.model) as staging:
        how: dict[str, Any] = {"ks": options.ks, "ties": options.ties, "binary": options.binary}
        run = run_retrieval(opened.embedder, opened.data, dims=options.dims, **how)
        return _write(staging, run, opened, options)


def _write(
    staging: Path, run: RetrievalRun, opened: encoded_set.OpenedSet, options: RetrievalOptions
) -> str:
    ks = list(dict.fromkeys(int(name.partition("@")[2]) for name in run.results[0].per_query))
    k = 10 if 10 in ks else ks[-1]
    metric, chance = f"ndcg@{k}", run.judgements.chance(k)
    name = metric_title(metric)
    means = measure.metric_intervals(run)
    pairs = measure.dimension_differences(run, metric)
    setting: dict[str, str | int | float] = {
        "ties": options.ties,
        "relevance": "binary" if options.binary else "graded",
        "queries": len(run.data.queries),
        "documents": len(run.data.corpus),
        "step": opened.embedder.info.step,
    }
    asked = {"split": options.qrels_split, "task": options.task, "prompt": options.prompt}
    setting |= {name: value for name, value in asked.items() if value is not None}
    records = figures.retrieval_records(run.results, means, pairs, metric, setting)
    records.append(Record(metric=f"{metric} of chance", value=chance, setting=setting))
    write_jsonl(staging / "queries.jsonl", _query_rows(run))
    write_jsonl(staging / "rankings.jsonl", _ranking_rows(run))
    figures.plot_dimensions(staging / "dimensions.png", means, metric, chance=chance)
    files = [FigureFile("dimensions.png", f"{name} against dimension, with 95 % intervals")]
    cuts = [cut for cut in ks if cut > 1 or ks == [1]]
    headline = [f"{one}@{cut}" for one in ("ndcg", "accuracy") for cut in cuts]
    tables = {
        "Scores": figures.headline_table(means, headline, chance=chance, metric=metric),
        "All metrics": figures.all_metrics_table(means),
        f"{name} over all orders of ties": figures.ties_table(run.results, metric),
    }
    if pairs:
        tables[f"Differences in {name}"] = figures.differences_table(pairs)
        figures.plot_differences(staging / "differences.png", pairs, metric)
        files.append(
            FigureFile("differences.png", f"{name} of each prefix less that of the widest")
        )
    return write_report(
        staging,
        title=f"Retrieval: {options.set_name}",
        summary=_summary(run, opened, setting),
        records=records,
        source=opened.source,
        issues=opened.data.issues,
        tables=tables,
        figures=files,
    )


def _summary(
    run: RetrievalRun, opened: encoded_set.OpenedSet, setting: Mapping[str, str | int | float]
) -> str:
    clusters = run.clusters
    worded = any(query.transcript or query.text for query in run.data.queries)
    kind = "query texts" if worded else "queries, whose words are not known,"
    ways, alone = f"{len(set(clusters.texts))} {kind}", ""
    speakers = set(clusters.speakers or ())
    if len(speakers) > 1:
        ways += f" and {len(speakers)} speakers"
    elif speakers:
        alone = " All queries are by one speaker: others may differ by more than the intervals."
    return (
        f"{len(run.data.queries)} queries, {len(run.data.corpus)} documents, model of step "
        f"{setting['step']}, {setting['relevance']} relevance. "
        f"{encoded_set.describe_prompts(opened.embedder, run.data)}\n\n"
        f"Intervals are 95 % confidence intervals of the mean, from a bootstrap over {ways}."
        f"{alone} Paired tests {clusters.how_tested}; p-values are also given as "
        f"adjusted by Holm. Documents of equal score stand {ORDERS[str(setting['ties'])]}; "
        f"worst, expected and best are over all their orders."
    )


def _query_rows(run: RetrievalRun) -> list[dict[str, object]]:
    rows = []
    for result in run.results:
        for place, row in enumerate(run.judgements.judged):
            query = run.data.queries[row]
            values = {name: float(column[place]) for name, column in result.per_query.items()}
            words = {"transcript": query.transcript or query.text, "speaker": query.speaker}
            rows.append({"query": query.id, "dim": result.dim, **words, **values})
    return rows


def _ranking_rows(run: RetrievalRun) -> list[dict[str, object]]:
    first = run.results[0]
    return [
        {
            "query": query.id,
            "dim": first.dim,
            "transcript": query.transcript or query.text,
            "relevant": dict(run.data.qrels.get(query.id, {})),
            "top": [
                {"id": run.data.corpus[i].id, "score": round(float(score), 6)}
                for i, score in zip(row[:TOP], scores[:TOP], strict=True)
            ],
        }
        for query, row, scores in zip(run.data.queries, first.ranking, first.scores, strict=True)
    ]
