"""`mrl-jax eval tradeoff`: quality against bytes, work and time; a search config in a budget."""

import dataclasses

from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import refuse_snapshot
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio
from mrl_jax.evaluation import encoded_set
from mrl_jax.evaluation.report.folder import report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.statistics import intervals_of
from mrl_jax.evaluation.scoring import judgements_of
from mrl_jax.evaluation.tradeoff import figures, measure
from mrl_jax.evaluation.tradeoff.options import TradeoffOptions
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.config import write_search_config
from mrl_jax.inference.search.vectors import numbers_of

FIGURE = FigureFile(
    "tradeoff.png",
    "nDCG@10 against bytes a document and against latency; lines join the configs that no other "
    "beats in the two shown.",
)
BEST = "Search configs that no other beats in nDCG, bytes and latency at once"
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


def report_tradeoff(options: TradeoffOptions) -> str:
    """Measure every search config, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl and tradeoff.png. With a
    budget the best config within it is written into the model's folder, once the report
    stands.

    Raises:
        MrlError: `out` exists, a dim above the width, a corpus size below that of the set, a
            budget that is none or that no config is within, a vector that is not finite.
    """
    budget = None if options.budget is None else measure.parse_budget(options.budget)
    if budget is not None:
        refuse_snapshot(options.model, by="--budget")
    opened = encoded_set.open_set(options)
    embedder, data = opened.embedder, opened.data.judged_only()
    encoded_set.need_prefixes(embedder, options.model)
    plan = _plan(options, embedder, len(data.corpus), budget)
    with report_folder(options, options.model) as staging:
        encoded, documents = encoded_set.encode_set(embedder, data)
        judgements = judgements_of(data)
        results = measure.measure(
            numbers_of(encoded),
            documents,
            judgements,
            dims=plan.dims,
            corpus_size=plan.size,
            shortlist=plan.shortlist,
            progress=lambda configs: tqdm(configs, desc="search configs", leave=False),
        )
        clusters = encoded_set.clusters_of(data, judgements)
        means = intervals_of([one.ndcg for one in results], clusters)
        best = measure.pareto(measure.costs_of(results, ("bytes", "latency_ms")))
        chosen, choice = None, ""
        if budget is not None:
            chosen = measure.choose(results, budget)
            choice = f"Chosen for {options.budget}: {measure.title(chosen.config)}."
        figures.plot_tradeoff(staging / FIGURE.name, results, chosen=chosen, size=plan.size)
        source = opened.source
        table, every = (
            figures.tradeoff_table(results, means, best, only_best=only) for only in (True, False)
        )
        write_report(
            staging,
            title=f"Cost and quality: {options.set_name}",
            summary=f"{_summary(embedder, data, plan)}\n\n{choice}",
            records=figures.tradeoff_records(results, means, best, size=plan.size, chosen=chosen),
            source=source,
            issues=data.issues,
            tables={BEST: table, "All search configs": every},
            figures=[FIGURE],
        )
    if chosen is None:
        return str(table)
    config = chosen.config
    directions = None
    if config.rank is not None:
        directions = measure.directions_of(documents, config.dim, config.rank)
    reason = {"budget": options.budget, "data": source.data, "data_digest": source.data_digest}
    reason |= {"documents": plan.size, "ndcg@10": chosen.mean, **figures.costs_by_name(chosen)}
    write_search_config(options.model, embedder.info, config, directions, reason)
    return f"{table}\n\n{choice} It was written into {options.model}."


def _plan(
    options: TradeoffOptions, embedder: Embedder, documents: int, budget: measure.Budget | None
) -> Plan:
    dims = encoded_set.chosen_dims(embedder, options.dims)
    size = documents if options.corpus_size is None else options.corpus_size
    measure.check_size(size, documents, embedder.width)
    shortlist = options.shortlist
    if shortlist is None:
        shortlist = measure.usual_shortlist(documents)
    if shortlist < (least := measure.K):
        hint = f"pass {least}"
        raise MrlError(f"{shortlist}, expected {least} or more", where="--shortlist", hint=hint)
    if budget is not None:
        width = embedder.width
        measure.check_budget(budget, dims, shortlist=shortlist, size=size, width=width)
    return Plan(dims=dims, size=size, shortlist=shortlist)


def _summary(embedder: Embedder, data: RetrievalSet, plan: Plan) -> str:
    documents = len(data.corpus)
    more = plan.size - documents
    copies = f": its own, and {more} copies of them with noise a tenth as long, to time only"
    return SUMMARY.format(
        documents=documents,
        queries=len(data.queries),
        prompts=encoded_set.describe_prompts(embedder, data),
        size=plan.size,
        grown=copies if more else "",
        shortlist=plan.shortlist,
        part=f"{plan.shortlist / documents:.0%}",
        encoding=_encoding_cost(embedder, data),
    )


def _encoding_cost(embedder: Embedder, data: RetrievalSet) -> str:
    """What embedding one query costs, which all configs share, in words."""
    spoken = data.queries[0].audio is not None
    rate = embedder.model.speech.config.sample_rate if spoken else None
    query = data.queries[encoded_set.median_query(data, rate)]
    words = query.text or "" if rate is None else load_query_audio(query, rate)
    prompt = {"task": query.task or "", "prompt": query.prompt}
    seconds = encoded_set.time_query(embedder.encoder.alone(words, **prompt))
    work = embedder.encoder.flops(words, **prompt)
    return (
        f"Before that a query has to be embedded: {1000 * seconds:.1f} ms alone and {work:.3g} "
        "operations by XLA's count, for the query of median length, whatever the config."
    )
