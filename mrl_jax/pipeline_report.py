"""`eval.py pipeline`: recogniser, translator and text tower, from a set to a report folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mrl_jax.data.digests import digest_lines
from mrl_jax.data.named_sets import load_retrieval_set
from mrl_jax.data.plain_text import plain_text
from mrl_jax.data.set_digest import digest_retrieval_set
from mrl_jax.errors import MrlError
from mrl_jax.evaluation import comparison
from mrl_jax.evaluation.records import Record, Source, write_jsonl
from mrl_jax.evaluation.report import figure, markdown_table, save
from mrl_jax.evaluation.statistics import PairedTest, paired_test
from mrl_jax.evaluation.transcribe import Recogniser
from mrl_jax.evaluation.translate import MODEL, Translator, TranslatorConfig
from mrl_jax.evaluation.wer import Comparison, compare_transcripts, error_columns, error_records
from mrl_jax.measured_set import set_name
from mrl_jax.pipeline import (
    PipelineRun,
    Stages,
    file_digest,
    open_text_side,
    run_pipeline,
    transcripts_of,
)
from mrl_jax.report_folder import library_commit, report_folder, write_report
from mrl_jax.staging import check_apart
from mrl_jax.tower_folder import load_hubert_ctc, read_info
from mrl_jax.transcribe_report import error_table

METRIC = "ndcg@10"
HEADLINE = ("ndcg@5", "ndcg@10", "accuracy@5", "accuracy@10")
TRUE = "true transcripts"
PICTURE = "dimensions.png"
BINS = ((0, 0), (1, 1), (2, 2), (3, None))
"""Word errors of a query, from and to."""


def report_pipeline(
    model: Path | None,
    data: Path | str,
    out: Path,
    *,
    text: Path,
    translator: str = "none",
    source: str | None = None,
    target: str | None = None,
    beams: int = 1,
    transcripts: str | None = None,
    prompt: str = "",
    plain: bool = False,
    dims: Sequence[int] | None = None,
    overwrite: bool = False,
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, transcripts.jsonl (one
    line a query: what was said, heard and translated, and where its answer stood) and a
    picture.

    Args:
        model: tower folder of a recogniser; None for `transcripts`.
        data: a retrieval set, or the name of a published one.
        out: the report folder.
        text: folder of a text tower, or of a trained model, whose text tower serves.
        translator: folder of CTranslate2's, or "none".
        source, target: its languages, as wol_Latn.
        beams: of the translator; 1 is greedy.
        transcripts: column of the queries to take for the recogniser's output.
        prompt: put before each query, word for word.
        plain: count recognition errors in lower case and without punctuation.
        dims: prefixes to search at.
        overwrite: replace an earlier report.

    Raises:
        MrlError: a folder that is not what it must be; a language that the tokenizer does
            not know; an empty transcript; a recording that cannot be heard.
    """
    if (model is None) == (transcripts is None):
        raise MrlError(
            "expected one of --recogniser and --transcripts",
            where="eval.py pipeline",
            mend="name a recogniser, or a column that holds another one's transcripts",
        )
    translate = _open_translator(translator, source, target, beams)
    info = None if model is None else read_info(model, expected=("hubert_ctc",))
    loaded = load_retrieval_set(data)
    heard = None if transcripts is None else transcripts_of(loaded, data, transcripts)
    for folder in (model, text):
        if folder is not None:
            check_apart(folder, out)
    with report_folder(out, overwrite=overwrite) as staging:
        side = open_text_side(text, dims)
        recogniser = None if model is None else Recogniser(load_hubert_ctc(model))
        run = run_pipeline(
            loaded, side, recogniser=recogniser, heard=heard, translator=translate, prompt=prompt
        )
        name = "recogniser" if model is not None else f"column {transcripts}"
        digests = [
            info.digest if info is not None else f"column:{transcripts}",
            "none" if translate is None else file_digest(translate.config.folder / MODEL),
            side.digest,
        ]
        through = "none" if translate is None else f"{translator} ({source} to {target})"
        told = Source(
            data=str(data),
            data_digest=digest_retrieval_set(loaded),
            model=f"{model or name} → {through} → {text}",
            model_digest=digest_lines(digests),
            commit=library_commit(),
        )
        setting: dict[str, str | int | float] = {
            "translator": through,
            "beams": beams,
            "prompt": prompt,
            "documents": len(run.data.corpus),
        }
        return _write(staging, run, name, told, setting, plain=plain)


def _open_translator(
    folder: str, source: str | None, target: str | None, beams: int
) -> Translator | None:
    """Before anything is encoded: what is wrong with it is told at once."""
    if folder == "none":
        if source is not None or target is not None:
            raise MrlError(
                "--source and --target are of a translator, and there is none",
                where="eval.py pipeline",
                mend="name its folder by --translator, or leave them out",
            )
        return None
    if source is None or target is None:
        raise MrlError(
            "a translator takes --source and --target",
            where="eval.py pipeline",
            mend="for instance --source wol_Latn --target fra_Latn",
        )
    config = TranslatorConfig(folder=Path(folder), source=source, target=target, beams=beams)
    return Translator(config)


def _write(
    staging: Path,
    run: PipelineRun,
    name: str,
    source: Source,
    setting: Mapping[str, str | int | float],
    *,
    plain: bool,
) -> str:
    chance = run.judgements.chance(10)
    ways = {name: run.stages} if run.true is None else {name: run.stages, TRUE: run.true}
    errors = None
    if run.true is not None:
        pair = (run.true.heard, run.stages.heard)
        if plain:
            pair = (list(map(plain_text, pair[0])), list(map(plain_text, pair[1])))
        errors = compare_transcripts(*pair)
    records, tables, means = [], {}, {}
    for way, stages in ways.items():
        means[way] = comparison.intervals(stages.results, run.clusters)
        own = {**setting, "queries_from": way}
        records += comparison.comparison_records(stages.results, means[way], [], METRIC, own)
        heading = "Scores" if way == name else f"Scores from {way}"
        tables[heading] = comparison.headline_table(
            means[way], HEADLINE, chance=chance, metric=METRIC
        )
    records.append(Record(metric=f"{METRIC} of chance", value=chance, setting=setting))
    if run.true is not None and errors is not None:
        tests = _tests(run.stages, run.true, run.clusters)
        records += _test_records(tests, len(run.data.queries), setting)
        rates = error_records(errors, run.clusters, {"text": "plain" if plain else "as written"})
        records += rates
        cost = f"What recognition costs: {comparison.title(METRIC)} less that from {TRUE}"
        tables[cost] = _test_table(tests)
        tables["Recognition"] = error_table(rates)
        tables["Queries by their word errors"] = _bins_table(run.stages, run.true, errors)
    write_jsonl(staging / "transcripts.jsonl", _rows(run, errors))
    _plot(staging / PICTURE, means, chance)
    write_report(
        staging,
        title=f"Pipeline: {set_name(source.data)}",
        summary=_summary(run, name, setting),
        records=records,
        source=source,
        tables=tables,
        pictures=[(PICTURE, f"{comparison.title(METRIC)} against dimension, 95 % intervals")],
    )
    return tables["Scores"]


def _summary(run: PipelineRun, name: str, setting: Mapping[str, str | int | float]) -> str:
    silent = sum(not text.strip() for text in run.stages.heard)
    told = (
        f"{len(run.data.queries)} queries, {len(run.data.corpus)} documents. Transcripts: {name}; "
        f"translator: {setting['translator']}; the text tower embeds what comes out."
    )
    if run.left_out:
        told += f" {run.left_out} more queries without a relevant document are left out."
    if silent:
        told += f" Nothing was heard in {silent} queries, which are embedded as empty texts."
    told += (
        "\n\nIntervals hold the mean in 95 of 100 such samples of queries: bootstrap over their "
        "words and speakers. transcripts.jsonl has each query's words at every stage, and where "
        "its answer stood at the widest dimension."
    )
    if run.true is not None:
        told += f" The same stages were run from the {TRUE} of the set: the rest is recognition."
    return told


def _tests(heard: Stages, true: Stages, clusters: comparison.Clusters) -> dict[int, PairedTest]:
    return {
        one.dim: paired_test(
            one.per_query[METRIC],
            other.per_query[METRIC],
            clusters.texts,
            crossed=clusters.speakers,
        )
        for one, other in zip(heard.results, true.results, strict=True)
    }


def _test_records(
    tests: Mapping[int, PairedTest], n: int, setting: Mapping[str, str | int | float]
) -> list[Record]:
    return [
        Record(
            metric=f"{METRIC} less that from {TRUE}",
            dim=dim,
            value=test.difference,
            n=n,
            low=test.low,
            high=test.high,
            setting={**setting, "p_value": test.p_value},
        )
        for dim, test in tests.items()
    ]


def _test_table(tests: Mapping[int, PairedTest]) -> str:
    rows = [
        [
            str(dim),
            f"{test.difference:+.4f}",
            f"{test.low:+.4f} to {test.high:+.4f}",
            comparison.p_text(test.p_value),
        ]
        for dim, test in tests.items()
    ]
    return markdown_table(["dimension", "difference", "95 %", "p"], rows)


def _bins_table(heard: Stages, true: Stages, errors: Comparison) -> str:
    """nDCG@10 at the widest dim of queries with none, one, two and more word errors."""
    totals = np.asarray([one.total for one in errors.words])
    wide = [max(stages.results, key=lambda result: result.dim) for stages in (heard, true)]
    rows = []
    for low, high in BINS:
        chosen = totals >= low if high is None else (totals >= low) & (totals <= high)
        if not chosen.any():
            continue
        scores = [float(np.mean(result.per_query[METRIC][chosen])) for result in wide]
        label = f"{low} or more" if high is None else str(low)
        rows.append([label, str(int(chosen.sum())), *(f"{score:.4f}" for score in scores)])
    name = comparison.title(METRIC)
    return markdown_table(["word errors", "queries", name, f"{name} from {TRUE}"], rows)


def _rows(run: PipelineRun, errors: Comparison | None) -> list[dict[str, object]]:
    wide = max(run.stages.results, key=lambda result: result.dim)
    rows = []
    for place, query in enumerate(run.data.queries):
        row: dict[str, object] = {
            "id": query.id,
            "speaker": query.speaker,
            "reference": query.transcript,
            "hypothesis": run.stages.heard[place],
            "translation": run.stages.translated[place],
            "rank": int(run.stages.ranks[place]),
            METRIC: float(wide.per_query[METRIC][place]),
            "best": run.data.corpus[int(wide.ranking[place, 0])].text,
        }
        if run.true is not None and errors is not None:
            row |= {
                "reference_translation": run.true.translated[place],
                "reference_rank": int(run.true.ranks[place]),
                **error_columns(errors, place),
            }
        rows.append(row)
    return rows


def _plot(path: Path, means: Mapping[str, Mapping], chance: float) -> None:
    made, axes = figure()
    for way, found in means.items():
        dims = sorted(dim for dim, metric in found if metric == METRIC)
        ends = [found[dim, METRIC] for dim in dims]
        axes.errorbar(
            dims,
            [one.mean for one in ends],
            yerr=[[one.mean - one.low for one in ends], [one.high - one.mean for one in ends]],
            fmt="o-",
            capsize=3,
            label=way,
        )
    axes.axhline(chance, color="grey", linestyle=":", label=f"chance, {chance:.4f}")
    comparison.dimension_axis(axes, dims)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel(comparison.title(METRIC))
    axes.legend(fontsize="small", frameon=False)
    save(made, path)
