"""`eval.py tradeoff`: quality against bytes, work and time, and a setting within a budget."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_query_audio
from mrl_jax.evaluation.encoded_set import (
    check_task,
    chosen_dims,
    clusters_of,
    encode_set,
    load_asked,
    median_query,
    need_prefixes,
    set_name,
    time_query,
    told_prompts,
)
from mrl_jax.evaluation.report.folder import report_folder, source_of, write_report
from mrl_jax.evaluation.scoring import judgements_of
from mrl_jax.evaluation.tradeoff.figures import _costs, plot, records, tradeoff_table
from mrl_jax.evaluation.tradeoff.measure import (
    K,
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
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.config import SearchConfig, write_search_config
from mrl_jax.inference.search.vectors import numbers_of
from mrl_jax.metrics.intervals import cluster_bootstraps

PICTURE = "tradeoff.png"


SUMMARY = """nDCG@10 and recall are measured on the set's own {documents} documents with {queries}
queries, all from one encoding. {prompts}
Recall is the share of the first ten of exact search, at full width in float32, that is found.

Latency is the median of one query at a time, settings in turn, encoding not counted, on this
machine in {size} documents{grown}. Work counts two operations an entry and document scored in
float32 or int8, three a 64-bit word of a Hamming distance, and two an entry of the directions
that a query is projected on. Bytes are those of all that is kept: a funnel keeps its prefix
apart.

{encoding}

"D on R directions" projects the first D coordinates on the R directions in which the corpus has
most energy. "binary" scores a short list of {shortlist} again with float32 queries against signs,
"binary+int8" against int8; a funnel looks at its first coordinates and scores as many again.
That list is {share} of the documents here; among more documents the same list is a smaller
part, and finds less than is told here: give it with --shortlist.

Intervals of nDCG are 95 %, from resampling queries. A setting is chosen on the set that its
figures are of, so what it reaches elsewhere is likely somewhat less."""


def report_tradeoff(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    corpus_size: int | None = None,
    shortlist: int | None = None,
    budget: str | None = None,
    task: str | None = None,
    prompt: str | None = None,
    overwrite: bool = False,
) -> str:
    """Measure every setting, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl and tradeoff.png. With a
    budget the best setting within it is written into the model's folder, once the report
    stands.

    Args:
        model, data, out: folders; `data` may also be the name of a published set.
        dims: prefixes, and ranks; those trained by default.
        corpus_size: documents that latency and work are told at; the set's by default.
        shortlist: documents that funnels and searches by signs look at again; by default
            a tenth of the set's, 10 to 100, whatever `corpus_size` is.
        budget: as `parse_budget` reads it.
        task: of all queries, instead of those in the set.
        prompt: or what stands before all queries, word for word.
        overwrite: replace an earlier report.

    Raises:
        MrlError: `out` exists, a dim above the width, a corpus size below that of the set, a
            budget that is none or that no setting is within, a vector that is not finite.
    """
    limits = None if budget is None else parse_budget(budget)
    embedder, loaded = Embedder.load(model), load_asked(data, task=task, prompt=prompt)
    check_task(task, embedder.info.prompts, model)
    need_prefixes(embedder, model)
    dims = chosen_dims(embedder, dims)
    check_apart(model, out)
    digest, loaded = digest_retrieval_set(loaded), loaded.judged_only()
    judgements, documents = judgements_of(loaded), len(loaded.corpus)
    size = documents if corpus_size is None else corpus_size
    check_size(size, documents, embedder.width)
    again = usual_shortlist(documents) if shortlist is None else shortlist
    if again < K:
        raise MrlError(f"{again}, expected {K} or more", where="--shortlist", hint=f"pass {K}")
    if limits is not None:
        check_budget(limits, dims, shortlist=again, size=size, width=embedder.width)
    with report_folder(out, overwrite=overwrite) as staging:
        encoded, held = encode_set(embedder, loaded)
        asked = numbers_of(encoded)
        results = measure(
            asked,
            held,
            judgements,
            dims=dims,
            corpus_size=size,
            shortlist=again,
            progress=_progress,
        )
        encoding = _encoding(embedder, loaded)
        picked = None if limits is None else choose(results, limits)
        clusters = clusters_of(loaded, judgements)
        scores = np.stack([r.ndcg for r in results], axis=1)
        means = cluster_bootstraps(scores, clusters.texts, crossed=clusters.speakers)
        best = pareto(costs_of(results, ("bytes", "latency_ms")))
        plot(staging / PICTURE, results, picked=picked, size=size)
        table = tradeoff_table(results, means, best, only_best=True)
        more = size - documents
        copies = f": its own, and {more} copies of them with noise a tenth as long, to time only"
        tables = {
            "Settings that no other beats in nDCG, bytes and latency at once": table,
            "All settings": tradeoff_table(results, means, best, only_best=False),
        }
        chosen = "" if picked is None else f"Chosen for {budget}: {title(picked.setting)}."
        summary = SUMMARY.format(
            documents=documents,
            queries=len(loaded.queries),
            prompts=told_prompts(embedder, loaded),
            size=size,
            grown=copies if more else "",
            shortlist=again,
            share=f"{again / documents:.0%}",
            encoding=encoding,
        )
        caption = (
            "nDCG@10 against bytes a document and against latency; lines join the settings that "
            "no other beats in the two shown."
        )
        source = source_of(embedder, model, data, digest)
        write_report(
            staging,
            title=f"Cost and quality: {set_name(data)}",
            summary=f"{summary}\n\n{chosen}",
            records=records(results, means, best, size=size, picked=picked),
            source=source,
            tables=tables,
            pictures=[(PICTURE, caption)],
        )
    if picked is None:
        return table
    setting = picked.setting
    rank = setting.rank
    directions = None if rank is None else directions_of(held, setting.dim, rank)
    told = {"budget": budget, "data": source.data, "data_digest": source.data_digest}
    told |= {"documents": size, "ndcg@10": picked.mean, **_costs(picked)}
    write_search_config(model, embedder.info, setting, directions, told)
    return f"{table}\n\n{chosen} It was written into {model}."


def _encoding(embedder: Embedder, data: RetrievalSet) -> str:
    """What embedding one query costs, which all settings share, in words."""
    spoken = data.queries[0].audio is not None
    rate = embedder.model.speech.config.sample_rate if spoken else None
    query = data.queries[median_query(data, rate)]
    asked = query.text or "" if rate is None else load_query_audio(query, rate)
    said = {"task": query.task or "", "prompt": query.prompt}
    seconds = time_query(embedder.encoder.alone(asked, **said))
    work = embedder.encoder.flops(asked, **said)
    return (
        f"Before that a query has to be embedded: {1000 * seconds:.1f} ms alone and {work:.3g} "
        "operations by XLA's count, for the query of median length, whatever the setting."
    )


def _progress(settings: Sequence[SearchConfig]) -> Iterable[SearchConfig]:
    return tqdm(settings, desc="settings", leave=False)
