"""`eval.py robustness`: how retrieval holds up when recordings get worse."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart
from mrl_jax.data.audio.degrade import Condition
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import Query, RetrievalSet, load_query_audio
from mrl_jax.evaluation.encoded_set import (
    check_task,
    chosen_dims,
    clusters_of,
    encode_corpus,
    load_asked,
    set_name,
    told_prompts,
)
from mrl_jax.evaluation.report.folder import report_folder, source_of, write_report
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.robustness.figures import (
    change_table,
    plot_conditions,
    plot_snr,
    robustness_records,
    robustness_table,
)
from mrl_jax.evaluation.robustness.measure import (
    CLEAN,
    CONDITIONS,
    RobustnessResult,
    check_babble,
    degrade_all,
    measure_robustness,
)
from mrl_jax.evaluation.scoring import Judgements, judgements_of
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import Vectors

SUMMARY = """nDCG@10 of the same {queries} spoken queries in each condition, searched in
{documents} documents that were encoded once. {prompts} In brackets
the 95 % interval, from resampling queries by their words{speakers}.

A signal-to-noise ratio is that of mean powers over the whole recording. Babble is mixed from
up to six other recordings of the set that ask for something else. Noise depends on the seed
({seed}) and the query's id alone: it is the same at every level but for its gain."""


def run_robustness(
    embedder: Embedder,
    data: RetrievalSet,
    *,
    dims: Sequence[int] | None = None,
    conditions: Sequence[Condition] = CONDITIONS,
    seed: int = 0,
) -> tuple[list[RobustnessResult], Judgements]:
    """Encode the corpus once and the judged queries once a condition, and score every prefix.

    Raises:
        MrlError: a query that is written, a broken recording, a dim above the width of the
            model, too few recordings for babble.
    """
    dims = chosen_dims(embedder, dims)
    written = [query.id for query in data.queries if query.audio is None]
    if written:
        raise MrlError(
            f"{len(written)} of {len(data.queries)} queries are written, the first is "
            f"{written[0]!r}",
            where="queries",
            hint="only recordings can be degraded: measure a set of spoken queries",
        )
    data = data.judged_only()
    queries, judgements = data.queries, judgements_of(data)
    answers = [_answers(data, query) for query in queries]
    if any(condition.kind == "babble" for condition in conditions):
        check_babble([query.id for query in queries], answers)
    rate = embedder.model.speech.config.sample_rate
    clips = [load_query_audio(query, rate) for query in queries]
    names = [query.id for query in queries]
    documents = encode_corpus(embedder, data)

    def encode(condition: Condition) -> Vectors:
        worse = degrade_all(
            clips,
            names,
            condition,
            sample_rate=rate,
            apart=answers,
            seed=seed,
            min_samples=embedder.model.min_samples,
        )
        return embedder.encoder.speech(
            worse,
            tasks=[query.task or "" for query in queries],
            prompts=[query.prompt for query in queries],
            names=[f"query {name}" for name in names],
            progress=condition.title,
        )

    found = {condition: encode(condition) for condition in dict.fromkeys((CLEAN, *conditions))}
    clusters = clusters_of(data, judgements)
    results = measure_robustness(
        found,
        documents,
        judgements,
        dims=dims,
        clusters=clusters.texts,
        crossed=clusters.speakers,
    )
    return results, judgements


def report_robustness(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    task: str | None = None,
    prompt: str | None = None,
    overwrite: bool = False,
    conditions: Sequence[Condition] = CONDITIONS,
    seed: int = 0,
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, snr.png (against the
    level of white noise and of babble) and conditions.png (all other conditions). A picture
    without a condition to show is left out.

    Raises:
        MrlError: as `run_robustness`; the set or the model cannot be read; `out` exists.
    """
    embedder, found = Embedder.load(model), load_asked(data, task=task, prompt=prompt)
    check_task(task, embedder.info.prompts, model)
    check_apart(model, out)
    with report_folder(out, overwrite=overwrite) as staging:
        results, judgements = run_robustness(
            embedder, found, dims=dims, conditions=conditions, seed=seed
        )
        chance = judgements.chance()
        table = robustness_table(results)
        pictures = []
        if any("snr_db" in condition.setting for condition in conditions):
            plot_snr(staging / "snr.png", results, chance=chance)
            caption = (
                "nDCG@10 against the level of noise, bands are 95 % intervals; dashed: the same "
                "queries without noise; dotted: a random order of documents."
            )
            pictures.append(("snr.png", caption))
        plot_conditions(staging / "conditions.png", results, chance=chance)
        caption = "nDCG@10 without noise, in a room, by telephone, at other speeds, and cut short."
        pictures.append(("conditions.png", caption))
        write_report(
            staging,
            title=f"Robustness: {set_name(data)}",
            summary=SUMMARY.format(
                queries=len(judgements.query_ids),
                documents=len(found.corpus),
                prompts=told_prompts(embedder, found),
                speakers=" and by speaker" if any(q.speaker for q in found.queries) else "",
                seed=seed,
            ),
            records=[
                *robustness_records(results, seed=seed),
                Record(metric="ndcg@10 of chance", value=chance),
            ],
            source=source_of(embedder, model, data, digest_retrieval_set(found)),
            tables={"nDCG@10": table, "Change against clean recordings": change_table(results)},
            pictures=pictures,
        )
    return table


def _answers(data: RetrievalSet, query: Query) -> frozenset[str]:
    """The documents that answer a query: who asks the same is no babble for it."""
    grades = data.qrels.get(query.id, {})
    return frozenset(document for document, grade in grades.items() if grade > 0)
