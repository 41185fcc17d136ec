"""`mrl-jax eval robustness`: how retrieval holds up when recordings get worse."""

from collections.abc import Sequence

from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.degrade import Condition
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_clips
from mrl_jax.evaluation import encoded_set
from mrl_jax.evaluation.report.folder import report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.robustness import figures
from mrl_jax.evaluation.robustness.measure import (
    CLEAN,
    CONDITIONS,
    RobustnessResult,
    check_babble,
    degrade_all,
    measure_robustness,
)
from mrl_jax.evaluation.robustness.options import RobustnessOptions
from mrl_jax.evaluation.scoring import Judgements, judgements_of
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import Vectors

SUMMARY = """nDCG@10 of the same {queries} spoken queries in each condition, searched in
{documents} documents that were encoded once. {prompts} In brackets
the 95 % interval, from resampling queries by their words{speakers}.

A signal-to-noise ratio is that of mean powers over the whole recording. Babble is mixed from
up to six other recordings of the set that ask for something else. Noise depends on the seed
({seed}) and the query's id alone: it is the same at every level but for its gain."""
SNR = FigureFile(
    "snr.png",
    "nDCG@10 against the level of noise, bands are 95 % intervals; dashed: the same queries "
    "without noise; dotted: a random order of documents.",
)
OTHERS = FigureFile(
    "conditions.png",
    "nDCG@10 without noise, in a room, by telephone, at other speeds, and cut short.",
)


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
    dims = encoded_set.chosen_dims(embedder, dims)
    if written := [query.id for query in data.queries if query.audio is None]:
        raise MrlError(
            f"{len(written)} of {len(data.queries)} queries are written, the first is "
            f"{written[0]!r}",
            where="queries",
            hint="only recordings can be degraded: measure a set of spoken queries",
        )
    data = data.judged_only()
    queries, judgements = data.queries, judgements_of(data)
    # The documents that answer a query: another with the same is no babble for it.
    answers = [
        frozenset(d for d, grade in data.qrels.get(query.id, {}).items() if grade > 0)
        for query in queries
    ]
    names = [query.id for query in queries]
    if any(condition.kind == "babble" for condition in conditions):
        check_babble(names, answers)
    rate = embedder.model.speech.config.sample_rate
    clips = load_query_clips(queries, rate)
    documents = encoded_set.encode_corpus(embedder, data)

    def encode(condition: Condition) -> Vectors:
        least = embedder.model.min_samples
        degraded = degrade_all(
            clips, names, condition, sample_rate=rate, apart=answers, seed=seed, min_samples=least
        )
        return embedder.encoder.speech(
            degraded,
            tasks=[query.task or "" for query in queries],
            prompts=[query.prompt for query in queries],
            names=[f"query {name}" for name in names],
            progress=condition.title,
        )

    vectors = {condition: encode(condition) for condition in dict.fromkeys((CLEAN, *conditions))}
    clusters = encoded_set.clusters_of(data, judgements)
    return measure_robustness(vectors, documents, judgements, clusters, dims=dims), judgements


def report_robustness(
    options: RobustnessOptions, *, conditions: Sequence[Condition] = CONDITIONS, seed: int = 0
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, snr.png (against the
    level of white noise and of babble) and conditions.png (all other conditions). A figure
    without a condition to show is left out.

    Args:
        options: of the command.
        conditions: of the recordings; clean ones are always measured.
        seed: of all noise.

    Raises:
        MrlError: as `run_robustness`; the set or the model cannot be read; `out` exists.
    """
    opened = encoded_set.open_set(options)
    with report_folder(options, options.model) as staging:
        results, judgements = run_robustness(
            opened.embedder, opened.data, dims=options.dims, conditions=conditions, seed=seed
        )
        chance = judgements.chance()
        noisy = any("snr_db" in condition.parameters for condition in conditions)
        if noisy:
            figures.plot_snr(staging / SNR.name, results, chance=chance)
        figures.plot_conditions(staging / OTHERS.name, results, chance=chance)
        return write_report(
            staging,
            title=f"Robustness: {options.set_name}",
            summary=SUMMARY.format(
                queries=len(judgements.query_ids),
                documents=len(opened.data.corpus),
                prompts=encoded_set.describe_prompts(opened.embedder, opened.data),
                speakers=" and by speaker" if any(q.speaker for q in opened.data.queries) else "",
                seed=seed,
            ),
            records=[
                *figures.robustness_records(results, seed=seed),
                Record(metric="ndcg@10 of chance", value=chance),
            ],
            source=opened.source,
            issues=opened.data.issues,
            tables={
                "nDCG@10": figures.robustness_table(results),
                "Change against clean recordings": figures.change_table(results),
            },
            figures=[SNR, OTHERS] if noisy else [OTHERS],
        )
