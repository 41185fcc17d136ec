"""`eval.py spectrum`: how much of the embedding is used, and which part of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.core.files import check_apart
from mrl_jax.data.sets.digests import digest_retrieval_set
from mrl_jax.evaluation.encoded_set import (
    check_task,
    chosen_dims,
    clusters_of,
    encode_set,
    load_asked,
    need_prefixes,
    set_name,
    told_prompts,
)
from mrl_jax.evaluation.report.folder import report_folder, source_of, write_report
from mrl_jax.evaluation.report.records import Record, write_jsonl
from mrl_jax.evaluation.scoring import Judgements
from mrl_jax.evaluation.spectrum.figures import (
    block_records,
    block_table,
    gap_table,
    plot_blocks,
    plot_sizes,
    plot_spectra,
    rotation_gains,
    rotation_records,
    rotation_table,
    size_records,
    size_table,
    spectrum_records,
    spectrum_rows,
    spectrum_table,
)
from mrl_jax.evaluation.spectrum.measure import (
    View,
    block_edges,
    measure_blocks,
    measure_sizes,
    modality_gap,
    sizes_for,
    spectrum,
    views,
)
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.rotation import Rotation, apply_rotation, read_rotation
from mrl_jax.inference.search.vectors import numbers_of

SPECTRA = "spectra.jsonl"


SUMMARY = """{queries} {asked} and {documents} documents, model of step {step}, encoded once.
{prompts}

Effective rank is exp(entropy) of the singular values over their sum (Roy and Vetterli, 2007);
energy rank is the same of their squares; stable rank is the sum of squares over the largest;
the participation ratio is (sum of squares)² over the sum of fourth powers. Joint vectors are
those of queries and documents together, one row each.

Each curve keeps as many numbers, and searches them alike: the prefix; the last coordinates;
random ones ({seeds} draws); projections on the leading directions of the documents, or of
queries and documents, as they are; and PCA, where the mean of the documents is subtracted
from both sides first. Directions of this report are fitted on the set that is searched,
without its judgements.{rotation}

A block adds what all coordinates score beyond all others; below zero it harms. Brackets and
bars are 95 % intervals of the mean over queries."""


def report_spectrum(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    task: str | None = None,
    prompt: str | None = None,
    overwrite: bool = False,
    seeds: int = 5,
) -> str:
    """Measure, write the report folder, and return its table of nDCG against size.

    The folder appears whole: report.md, report.html, results.jsonl, spectra.jsonl (every
    singular value, and the share of the energy up to it) and pictures.

    Where the model's folder has a rotation (`mrl-jax rotate`), its prefixes stand
    beside the plain ones.

    Args:
        model, data, out: folders; `data` may also be the name of a published set.
        dims: sizes to measure beside the powers of two; those trained by default.
        task: of all queries, instead of those in the set.
        prompt: or what stands before all queries, word for word.
        overwrite: replace an earlier report.
        seeds: draws of random coordinates.

    Raises:
        MrlError: the model, its rotation or the set cannot be used; a dim above the width;
            `out` exists.
    """
    embedder, found = Embedder.load(model), load_asked(data, task=task, prompt=prompt)
    check_task(task, embedder.info.prompts, model)
    need_prefixes(embedder, model)
    dims = chosen_dims(embedder, dims)
    rotation = read_rotation(model, head_digest=embedder.info.head_digest)
    check_apart(model, out)
    judgements = Judgements(
        [query.id for query in found.queries],
        [document.id for document in found.corpus],
        found.qrels,
    )
    clusters, chance = clusters_of(found, judgements), judgements.chance()
    spoken = found.queries[0].audio is not None
    kinds = ("speech" if spoken else "written queries", "text", "joint")
    with report_folder(out, overwrite=overwrite) as staging:
        encoded, documents = encode_set(embedder, found)
        queries = numbers_of(encoded)
        shown = views(queries, documents, seeds=seeds)
        if rotation is not None:
            asked, held = (apply_rotation(x, rotation) for x in (queries, documents))
            shown.insert(1, View("rotated prefix", asked, held))
        vectors = dict(
            zip(kinds, (queries, documents, np.concatenate((queries, documents))), strict=True)
        )
        spectra = {
            (kind, centred): spectrum(some, centred=centred)
            for kind, some in vectors.items()
            for centred in (False, True)
        }
        gaps = {
            dim: modality_gap(truncate(queries, dim), truncate(documents, dim))
            for dim in sorted({*dims, embedder.width})
        }
        sizes = measure_sizes(shown, judgements, sizes=sizes_for(embedder.width, dims))
        edges = block_edges(embedder.width)
        blocks = measure_blocks(queries, documents, judgements, edges=edges)

        plot_spectra(staging / "spectra.png", spectra)
        plot_sizes(staging / "sizes.png", sizes, chance=chance, trained=embedder.info.dims)
        plot_blocks(staging / "blocks.png", blocks, clusters)
        write_jsonl(staging / SPECTRA, spectrum_rows(spectra))
        records = spectrum_records(spectra, {kind: len(some) for kind, some in vectors.items()})
        for dim, (distance, cosine) in gaps.items():
            records.append(Record(metric="distance of means", value=distance, dim=dim))
            records.append(Record(metric="cosine of means", value=cosine, dim=dim))
        records += size_records(sizes, clusters) + block_records(blocks, clusters)
        records.append(Record(metric="ndcg@10 of chance", value=chance))
        tables = {"nDCG@10 against size": size_table(sizes)}
        if rotation is not None:
            gains = rotation_gains(sizes, dims, clusters)
            records += rotation_records(gains)
            tables["The rotation (nDCG@10)"] = rotation_table(gains)
        tables["Spectra"] = spectrum_table(spectra)
        tables["Gap between queries and documents"] = gap_table(gaps)
        tables["Blocks of coordinates (nDCG@10)"] = block_table(blocks, clusters)
        digest = digest_retrieval_set(found)
        write_report(
            staging,
            title=f"Spectrum: {set_name(data)}",
            summary=SUMMARY.format(
                queries=len(found.queries),
                asked="spoken queries" if spoken else "written queries",
                documents=len(found.corpus),
                step=embedder.info.step,
                prompts=told_prompts(embedder, found),
                seeds=seeds,
                rotation=_about(rotation, [document.text for document in found.corpus]),
            ),
            records=records,
            source=source_of(embedder, model, data, digest),
            tables=tables,
            pictures=[
                ("sizes.png", "nDCG@10 against the numbers kept, by what is kept"),
                ("spectra.png", "Singular values and cumulative energy of embeddings"),
                ("blocks.png", "What blocks of coordinates score alone, and what they add"),
            ],
        )
    return tables["nDCG@10 against size"]


def _about(rotation: Rotation | None, texts: Sequence[str]) -> str:
    if rotation is None:
        return ""
    seen = rotation.seen(texts)
    told = f"; {seen} of this set's {len(texts)} documents were among what it was fitted on" + (
        ", so they are not unseen" if seen else ""
    )
    return (
        f" The rotated prefix is that of a rotation without centring at use, fitted on "
        f"{rotation.rows} vectors ({rotation.fitted_on}) of {rotation.data}{told}."
    )
