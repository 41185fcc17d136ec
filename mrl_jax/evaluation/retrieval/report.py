"""`eval.py retrieval`: from a model folder and a retrieval set to a report folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrl_jax.core.files import check_apart
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import RetrievalSet
from mrl_jax.evaluation.encoded_set import (
    check_task,
    chosen_dims,
    clusters_of,
    encode_set,
    load_asked,
    set_name,
    told_prompts,
)
from mrl_jax.evaluation.report.folder import report_folder, source_of, write_report
from mrl_jax.evaluation.report.records import Record, write_jsonl
from mrl_jax.evaluation.retrieval import tables as comparison
from mrl_jax.evaluation.scoring import (
    KS,
    Judgements,
    RetrievalResult,
    Ties,
    evaluate_retrieval,
    judgements_of,
)
from mrl_jax.inference.embedder import Embedder
from mrl_jax.metrics.intervals import Clusters

TOP = 10


ORDERS = {
    "trec": "by descending id, as trec_eval has them",
    "id": "by ascending id, as sentence-transformers has them",
}


@dataclasses.dataclass(frozen=True)
class RetrievalRun:
    """A model measured on a set.

    Attributes:
        data: the set, less the queries without a relevant document.
        left_out: how many those are.
    """

    data: RetrievalSet
    left_out: int
    judgements: Judgements
    clusters: Clusters
    results: list[RetrievalResult]


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
        embedder: the model.
        data: the set.
        dims: prefixes; those trained by default.
        ks: ranks that metrics are cut at.
        ties: see `evaluate_retrieval`.
        binary: count every grade above 0 as 1.

    Raises:
        MrlError: a broken recording, queries both spoken and written, a dim above the
            width of the model.
    """
    dims = chosen_dims(embedder, dims)
    left_out, data = len(data.unjudged), data.judged_only()
    queries, documents = encode_set(embedder, data)
    judgements = judgements_of(data)
    judgements = judgements.binary() if binary else judgements
    results = evaluate_retrieval(queries, documents, judgements, dims=dims, ks=ks, ties=ties)
    return RetrievalRun(data, left_out, judgements, clusters_of(data, judgements), results)


def report_retrieval(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    ks: Sequence[int] = KS,
    ties: Ties = "trec",
    binary: bool = False,
    task: str | None = None,
    prompt: str | None = None,
    overwrite: bool = False,
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl (one record a metric and
    dimension), queries.jsonl (every metric of every query and dimension), rankings.jsonl
    (the best documents of each query at the first dim) and pictures.

    Args:
        model, data, out: folders; `data` may also be the name of a published set.
        dims, ks, ties, binary: see `run_retrieval`.
        task: of all queries, instead of those in the set.
        prompt: or what stands before all queries, word for word.
        overwrite: replace an earlier report.
    """
    embedder, loaded = Embedder.load(model), load_asked(data, task=task, prompt=prompt)
    check_task(task, embedder.info.prompts, model)
    check_apart(model, out)
    with report_folder(out, overwrite=overwrite) as staging:
        run = run_retrieval(embedder, loaded, dims=dims, ks=ks, ties=ties, binary=binary)
        setting = {"ties": ties, "relevance": "binary" if binary else "graded"}
        digest = digest_retrieval_set(loaded)
        return _write(staging, run, embedder, model, data, digest, setting)


def _write(
    staging: Path,
    run: RetrievalRun,
    embedder: Embedder,
    model: Path,
    data: Path | str,
    digest: str,
    chosen: Mapping[str, str],
) -> str:
    ks = list(dict.fromkeys(int(name.partition("@")[2]) for name in run.results[0].per_query))
    k = 10 if 10 in ks else ks[-1]
    metric, chance = f"ndcg@{k}", run.judgements.chance(k)
    means = comparison.intervals(run.results, run.clusters)
    pairs = comparison.differences(run.results, run.clusters, metric)
    queries, corpus = len(run.data.queries), len(run.data.corpus)
    setting = {
        **chosen,
        "queries": queries,
        "documents": corpus,
        "step": embedder.info.step,
    }
    records = comparison.comparison_records(run.results, means, pairs, metric, setting)
    records.append(Record(metric=f"{metric} of chance", value=chance, setting=setting))
    write_jsonl(staging / "queries.jsonl", _per_query(run))
    write_jsonl(staging / "rankings.jsonl", _rankings(run))
    comparison.plot_dimensions(staging / "dimensions.png", means, metric, chance=chance)
    name = comparison.title(metric)
    pictures = [("dimensions.png", f"{name} against dimension, with 95 % intervals")]
    headline = [
        f"{one}@{cut}" for one in ("ndcg", "accuracy") for cut in ks if cut > 1 or ks == [1]
    ]
    table = comparison.headline_table(means, headline, chance=chance, metric=metric)
    tables = {
        "Scores": table,
        "All metrics": comparison.all_metrics_table(means),
        f"{name} over all orders of ties": comparison.ties_table(run.results, metric),
    }
    if pairs:
        tables[f"Differences in {name}"] = comparison.differences_table(pairs)
        comparison.plot_differences(staging / "differences.png", pairs, metric)
        pictures.append(("differences.png", f"{name} of each prefix less that of the widest"))
    write_report(
        staging,
        title=f"Retrieval: {set_name(data)}",
        summary=_summary(run, embedder, chosen),
        records=records,
        source=source_of(embedder, model, data, digest),
        tables=tables,
        pictures=pictures,
    )
    return table


def _summary(run: RetrievalRun, embedder: Embedder, chosen: Mapping[str, str]) -> str:
    clusters = run.clusters
    worded = any(query.transcript or query.text for query in run.data.queries)
    kind = "query texts" if worded else "queries, whose words are not known,"
    ways, alone = f"{len(set(clusters.texts))} {kind}", ""
    speakers = set(clusters.speakers or ())
    if len(speakers) > 1:
        ways += f" and {len(speakers)} speakers"
    elif speakers:
        alone = " All queries are by one speaker: others may differ by more than intervals say."
    left_out = run.left_out
    without = f" {left_out} more without a relevant document are left out." if left_out else ""
    return (
        f"{len(run.data.queries)} queries, {len(run.data.corpus)} documents, model of step "
        f"{embedder.info.step}, {chosen['relevance']} relevance.{without} "
        f"{told_prompts(embedder, run.data)}\n\n"
        f"Intervals hold the mean in 95 of 100 such samples of queries: bootstrap over {ways}."
        f"{alone} Paired tests {clusters.how_tested}; p-values are also given as "
        f"adjusted by Holm. Documents of equal score stand {ORDERS[chosen['ties']]}; "
        f"worst, expected and best are over all their orders."
    )


def _per_query(run: RetrievalRun) -> list[dict[str, object]]:
    rows = []
    for result in run.results:
        for place, row in enumerate(run.judgements.judged):
            query = run.data.queries[row]
            values = {name: float(column[place]) for name, column in result.per_query.items()}
            said = {"transcript": query.transcript or query.text, "speaker": query.speaker}
            rows.append({"query": query.id, "dim": result.dim, **said, **values})
    return rows


def _rankings(run: RetrievalRun) -> list[dict[str, object]]:
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
