"""`eval.py retrieval`: from a model folder and a retrieval set to a report folder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.data.retrieval_set import RetrievalSet, load_query_audio, read_retrieval_set
from mrl_jax.embedder import Embedder
from mrl_jax.errors import MrlError
from mrl_jax.evaluation import report
from mrl_jax.evaluation.retrieval import Judgements, RetrievalResult, evaluate_retrieval
from mrl_jax.staging import staged_folder

MARKER = "results.jsonl"
TOP = 10


@dataclasses.dataclass(frozen=True)
class RetrievalRun:
    """A model measured on a set."""

    data: RetrievalSet
    results: list[RetrievalResult]
    chance: float


def run_retrieval(
    embedder: Embedder, data: RetrievalSet, *, dims: Sequence[int] | None = None
) -> RetrievalRun:
    """Encode queries and corpus once, and score every prefix.

    Raises:
        MrlError: a broken recording, queries both spoken and written, a dim above the
            width of the model.
    """
    dims = embedder.info.dims if dims is None else dims
    for dim in dims:
        if not 1 <= dim <= embedder.width:
            raise MrlError(
                f"the dimension {dim} is not of this model, expected 1 to {embedder.width}",
                where="--dims",
                mend=f"leave {dim} out",
            )
    rate = embedder.model.speech.config.sample_rate
    spoken = [query for query in data.queries if query.audio is not None]
    if spoken and len(spoken) < len(data.queries):
        raise MrlError(
            f"{len(spoken)} of {len(data.queries)} queries are spoken and the others written",
            where="queries",
            mend="measure them as two sets",
        )
    if spoken:
        vectors = embedder.encoder.speech(
            [load_query_audio(query, rate) for query in spoken],
            tasks=[query.task or "" for query in spoken],
            names=[f"query {query.id}" for query in spoken],
            progress="queries",
        )
    else:
        vectors = embedder.encoder.text(
            [query.text or "" for query in data.queries], progress="queries"
        )
    documents = embedder.encoder.text([doc.text for doc in data.corpus], progress="corpus")
    judgements = Judgements(
        [query.id for query in data.queries], [doc.id for doc in data.corpus], data.qrels
    )
    results = evaluate_retrieval(vectors, documents, judgements, dims=dims)
    return RetrievalRun(data, results, judgements.chance())


def report_retrieval(
    model: Path, folder: Path, out: Path, *, dims: Sequence[int] | None = None
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, results.jsonl (one record a metric and
    dimension), rankings.jsonl (the best documents of each query at the first dim) and
    dimensions.png.
    """
    embedder = Embedder.load(model)
    run = run_retrieval(embedder, read_retrieval_set(folder), dims=dims)
    identity = {
        "data": str(folder),
        "model": str(model),
        "head_digest": embedder.info.head_digest,
        "step": embedder.info.step,
        "queries": len(run.data.queries),
        "documents": len(run.data.corpus),
    }
    table = report.table(run.results, chance=run.chance)
    with staged_folder(out, marker=MARKER, overwrite=True) as staging:
        rows = report.records(run.results, chance=run.chance, identity=identity)
        report.write_jsonl(staging / MARKER, rows)
        report.write_jsonl(staging / "rankings.jsonl", _rankings(run))
        report.plot_dimensions(staging / "dimensions.png", run.results, chance=run.chance)
        (staging / "report.md").write_text(
            f"# Retrieval: {folder.name}\n\n{len(run.data.queries)} queries, "
            f"{len(run.data.corpus)} documents, model {model} of step {embedder.info.step}\n\n"
            f"{table}\n\n![nDCG@10 against dimension](dimensions.png)\n\n"
            f"```json\n{json.dumps(identity, indent=1)}\n```\n",
            encoding="utf-8",
        )
    return table


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
