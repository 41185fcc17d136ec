"""`mrl-jax eval tradeoff`: quality against bytes, work and time; a search config in a budget."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio
from mrl_jax.evaluation.encoded_set import (
    OpenedSet,
    chosen_dims,
    clusters_of,
    describe_prompts,
    encode_set,
    median_query,
    need_prefixes,
    open_set,
    set_name,
    time_query,
)
from mrl_jax.evaluation.report.folder import report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.records import Source
from mrl_jax.evaluation.report.statistics import intervals_of
from mrl_jax.evaluation.scoring import judgements_of
from mrl_jax.evaluation.tradeoff.figures import (
    costs_by_name,
    plot_tradeoff,
    tradeoff_records,
    tradeoff_table,
)
from mrl_jax.evaluation.tradeoff.measure import (
    Budget,
    K,
    Measured,
    check_budget,
    check_size,
    choose,
    costs_of,
    directions_of,
    measure,
    pareto,
    parse_budget,
    title,
    usual_shortlist,
)
from mrl_jax.evaluation.tradeoff.options import TradeoffOptions
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.config import SearchConfig, write_search_config
from mrl_jax.inference.search.vectors import numbers_of
from mrl_jax.metrics.intervals import Interval

FIGURE = FigureFile(
    "tradeoff.png",
    "nDCG@10 against bytes a document and against latency; lines join the configs that no other "
    "beats in the two shown.",
)
SUMMARY = """nDCG@10 and recall are measured on the set's own {documents} documents with {queries}
queries, all from one encoding. {prompts}
Recall is the part of the first ten of exact search, at full width in float32, that is found.

Latency is the median of one query at a time, search configs in turn, encoding not counted, on
this machine in {size} documents{grown}. Work counts two operations an entry and document scored in
float32 or int8, three a 64-bit word of a Hamming distance, and two an entry of the directions
that a query is projected on. Bytes are those of all that is kept: a funnel keeps its prefix
apart.

{encoding}

"D on R directions" projects the first D coordinates on the R directions in which the corpus has
most energy. "binary" scores a short list of {shortlist} again with float32 queries against signs,
"binary+int8" against int8; a funnel looks at its first coordinates and scores as many again.
That list is {part} of the documents here; among more documents the same list is a smaller
part, and finds less than is reported here: give it with --shortlist.

Intervals of nDCG are 95 %, from resampling queries. A search config is chosen on the set that its
figures are of, so what it reaches elsewhere is likely somewhat less."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is searched, resolved from the options and the set before anything is encoded.

    Attributes:
        dims: prefixes, and ranks.
        size: documents that latency and work are measured at.
        shortlist: documents that are scored again.
    """

    dims: tuple[int, ...]
    size: int
    shortlist: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TradeoffRun:
    """Every search config measured, and the one that a budget chose."""

    plan: Plan
    data: RetrievalSet
    results: list[Measured]
    means: list[Interval]
    chosen: Measured | None


def report_tradeoff(options: TradeoffOptions) -> str:
    """Measure every search config, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl and tradeoff.png. With a
    budget the best config within it is written into the model's folder, once the report
    stands.

    Raises:
        MrlError: `out` exists, a dim above the width, a corpus size below that of the set, a
            budget that is none or that no config is within, a vector that is not finite.
    """
    budget = None if options.budget is None else parse_budget(options.budget)
    opened = open_set(options)
    embedder, data = opened.embedder, opened.data.judged_only()
    need_prefixes(embedder, options.model)
    plan = _plan(options, embedder, len(data.corpus), budget)
    with report_folder(options, options.model) as staging:
        encoded, documents = encode_set(embedder, data)
        judgements = judgements_of(data)
        results = measure(
            numbers_of(encoded),
            documents,
            judgements,
            dims=plan.dims,
            corpus_size=plan.size,
            shortlist=plan.shortlist,
            progress=_progress,
        )
        run = TradeoffRun(
            plan=plan,
            data=data,
            results=results,
            means=intervals_of([one.ndcg for one in results], clusters_of(data, judgements)),
            chosen=None if budget is None else choose(results, budget),
        )
        source = opened.source
        table = _write(staging, opened, options, run, source)
    if run.chosen is None:
        return table
    config = run.chosen.config
    directions = None
    if config.rank is not None:
        directions = directions_of(documents, config.dim, config.rank)
    reason = {"budget": options.budget, "data": source.data, "data_digest": source.data_digest}
    reason |= {"documents": plan.size, "ndcg@10": run.chosen.mean, **costs_by_name(run.chosen)}
    write_search_config(options.model, embedder.info, config, directions, reason)
    return f"{table}\n\n{_choice(options, run)} It was written into {options.model}."


def _plan(
    options: TradeoffOptions, embedder: Embedder, documents: int, budget: Budget | None
) -> Plan:
    dims = chosen_dims(embedder, options.dims)
    size = documents if options.corpus_size is None else options.corpus_size
    check_size(size, documents, embedder.width)
    shortlist = options.shortlist
    if shortlist is None:
        shortlist = usual_shortlist(documents)
    if shortlist < K:
        raise MrlError(f"{shortlist}, expected {K} or more", where="--shortlist", hint=f"pass {K}")
    if budget is not None:
        check_budget(budget, dims, shortlist=shortlist, size=size, width=embedder.width)
    return Plan(dims=dims, size=size, shortlist=shortlist)


def _write(
    staging: Path, opened: OpenedSet, options: TradeoffOptions, run: TradeoffRun, source: Source
) -> str:
    plan, documents = run.plan, len(run.data.corpus)
    best = pareto(costs_of(run.results, ("bytes", "latency_ms")))
    plot_tradeoff(staging / FIGURE.name, run.results, chosen=run.chosen, size=plan.size)
    table = tradeoff_table(run.results, run.means, best, only_best=True)
    more = plan.size - documents
    copies = f": its own, and {more} copies of them with noise a tenth as long, to time only"
    summary = SUMMARY.format(
        documents=documents,
        queries=len(run.data.queries),
        prompts=describe_prompts(opened.embedder, run.data),
        size=plan.size,
        grown=copies if more else "",
        shortlist=plan.shortlist,
        part=f"{plan.shortlist / documents:.0%}",
        encoding=_encoding_cost(opened.embedder, run.data),
    )
    write_report(
        staging,
        title=f"Cost and quality: {set_name(options.data)}",
        summary=f"{summary}\n\n{_choice(options, run)}",
        records=tradeoff_records(run.results, run.means, best, size=plan.size, chosen=run.chosen),
        source=source,
        tables={
            "Search configs that no other beats in nDCG, bytes and latency at once": table,
            "All search configs": tradeoff_table(run.results, run.means, best, only_best=False),
        },
        figures=[FIGURE],
    )
    return str(table)


def _choice(options: TradeoffOptions, run: TradeoffRun) -> str:
    return f"Chosen for {options.budget}: {title(run.chosen.config)}." if run.chosen else ""


def _encoding_cost(embedder: Embedder, data: RetrievalSet) -> str:
    """What embedding one query costs, which all configs share, in words."""
    spoken = data.queries[0].audio is not None
    rate = embedder.model.speech.config.sample_rate if spoken else None
    query = data.queries[median_query(data, rate)]
    words = query.text or "" if rate is None else load_query_audio(query, rate)
    prompt = {"task": query.task or "", "prompt": query.prompt}
    seconds = time_query(embedder.encoder.alone(words, **prompt))
    work = embedder.encoder.flops(words, **prompt)
    return (
        f"Before that a query has to be embedded: {1000 * seconds:.1f} ms alone and {work:.3g} "
        "operations by XLA's count, for the query of median length, whatever the config."
    )


def _progress(configs: Sequence[SearchConfig]) -> Iterable[SearchConfig]:
    return tqdm(configs, desc="search configs", leave=False)
