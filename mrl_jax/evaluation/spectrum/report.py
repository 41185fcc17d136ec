"""`mrl-jax eval spectrum`: how much of the embedding is used, and which part of it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.evaluation import encoded_set
from mrl_jax.evaluation.report.folder import report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile, Table
from mrl_jax.evaluation.report.records import Record, write_jsonl
from mrl_jax.evaluation.scoring import Judgements, judgements_of
from mrl_jax.evaluation.spectrum import figures, measure
from mrl_jax.evaluation.spectrum.measure import BlockResult, SizeResult, Spectrum
from mrl_jax.evaluation.spectrum.options import SpectrumOptions
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.rotation import Rotation, apply_rotation, read_rotation
from mrl_jax.inference.search.vectors import numbers_of
from mrl_jax.metrics.intervals import Clusters

FIGURES = (
    FigureFile("sizes.png", "nDCG@10 against the numbers kept, by what is kept"),
    FigureFile("spectra.png", "Singular values and cumulative energy of embeddings"),
    FigureFile("blocks.png", "What blocks of coordinates score alone, and what they add"),
)
SUMMARY = """{queries} {kind} and {documents} documents, model of step {step}, encoded once.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpectrumRun:
    """Everything that is measured of one model on one set.

    Attributes:
        rows: vectors of each kind.
        spectra: (kind, centred) to the spectrum.
        gaps: dim to distance and cosine of the means of queries and documents.
    """

    rows: Mapping[str, int]
    spectra: Mapping[tuple[str, bool], Spectrum]
    gaps: Mapping[int, tuple[float, float]]
    sizes: list[SizeResult]
    blocks: list[BlockResult]


def report_spectrum(options: SpectrumOptions, *, seeds: int = 5) -> str:
    """Measure, write the report folder, and return its table of nDCG against size.

    The folder appears whole: report.md, report.html, results.jsonl, spectra.jsonl (every
    singular value, and the part of the energy up to it) and figures.

    Where the model's folder has a rotation (`mrl-jax rotate`), its prefixes stand
    beside the plain ones.

    Args:
        options: of the command.
        seeds: draws of random coordinates.

    Raises:
        MrlError: the model, its rotation or the set cannot be used; a dim above the width;
            `out` exists.
    """
    opened = encoded_set.open_set(options)
    embedder, data = opened.embedder, opened.data
    encoded_set.need_prefixes(embedder, options.model)
    dims = encoded_set.chosen_dims(embedder, options.dims)
    rotation = read_rotation(options.model, head_digest=embedder.info.head_digest)
    judgements = judgements_of(data)
    with report_folder(options, options.model) as staging:
        encoded, documents = encoded_set.encode_set(embedder, data)
        spoken = data.queries[0].audio is not None
        kind = "speech" if spoken else "written queries"
        run = _measure(kind, numbers_of(encoded), documents, judgements, dims, rotation, seeds)
        clusters, chance = encoded_set.clusters_of(data, judgements), judgements.chance()
        trained = embedder.info.dims
        figures.plot_sizes(staging / FIGURES[0].name, run.sizes, chance=chance, trained=trained)
        figures.plot_spectra(staging / FIGURES[1].name, run.spectra)
        figures.plot_blocks(staging / FIGURES[2].name, run.blocks, clusters)
        write_jsonl(staging / "spectra.jsonl", figures.spectrum_rows(run.spectra))
        gains = figures.rotation_gains(run.sizes, dims, clusters) if rotation else {}
        return write_report(
            staging,
            title=f"Spectrum: {options.set_name}",
            summary=_summary(opened, rotation, spoken, seeds),
            records=_records(run, clusters, gains, chance),
            source=opened.source,
            issues=opened.data.issues,
            tables=_tables(run, clusters, gains),
            figures=FIGURES,
        )


def _measure(
    kind: str,
    queries: HostArray,
    documents: HostArray,
    judgements: Judgements,
    dims: tuple[int, ...],
    rotation: Rotation | None,
    seeds: int,
) -> SpectrumRun:
    width = queries.shape[1]
    sizes, edges = measure.sizes_for(width, dims), measure.block_edges(width)
    compared = measure.views(queries, documents, seeds=seeds)
    if rotation is not None:
        rotated, documents_rotated = (apply_rotation(x, rotation) for x in (queries, documents))
        compared.insert(1, measure.View("rotated prefix", rotated, documents_rotated))
    both = np.concatenate((queries, documents))
    vectors = {kind: queries, "text": documents, "joint": both}
    return SpectrumRun(
        rows={name: len(some) for name, some in vectors.items()},
        spectra={
            (name, centred): measure.spectrum(some, centred=centred)
            for name, some in vectors.items()
            for centred in (False, True)
        },
        gaps={
            dim: measure.modality_gap(truncate(queries, dim), truncate(documents, dim))
            for dim in sorted({*dims, width})
        },
        sizes=measure.measure_sizes(compared, judgements, sizes=sizes),
        blocks=measure.measure_blocks(queries, documents, judgements, edges=edges),
    )


def _records(
    run: SpectrumRun, clusters: Clusters, gains: figures.Gains, chance: float
) -> list[Record]:
    gap = [
        Record(metric=f"{name} of means", value=value, dim=dim)
        for dim, values in run.gaps.items()
        for name, value in zip(("distance", "cosine"), values, strict=True)
    ]
    return [
        *figures.spectrum_records(run.spectra, run.rows),
        *gap,
        *figures.size_records(run.sizes, clusters),
        *figures.block_records(run.blocks, clusters),
        Record(metric="ndcg@10 of chance", value=chance),
        *figures.rotation_records(gains),
    ]


def _tables(run: SpectrumRun, clusters: Clusters, gains: figures.Gains) -> dict[str, Table]:
    rotation = {"The rotation (nDCG@10)": figures.rotation_table(gains)} if gains else {}
    return {
        "nDCG@10 against size": figures.size_table(run.sizes),
        **rotation,
        "Spectra": figures.spectrum_table(run.spectra),
        "Gap between queries and documents": figures.gap_table(run.gaps),
        "Blocks of coordinates (nDCG@10)": figures.block_table(run.blocks, clusters),
    }


def _summary(
    opened: encoded_set.OpenedSet, rotation: Rotation | None, spoken: bool, seeds: int
) -> str:
    data = opened.data
    return SUMMARY.format(
        queries=len(data.queries),
        kind="spoken queries" if spoken else "written queries",
        documents=len(data.corpus),
        step=opened.embedder.info.step,
        prompts=encoded_set.describe_prompts(opened.embedder, data),
        seeds=seeds,
        rotation=_about(rotation, [document.text for document in data.corpus]),
    )


def _about(rotation: Rotation | None, texts: Sequence[str]) -> str:
    if rotation is None:
        return ""
    seen = rotation.seen(texts)
    overlap = f"; {seen} of this set's {len(texts)} documents were among what it was fitted on" + (
        ", so they are not unseen" if seen else ""
    )
    return (
        f" The rotated prefix is that of a rotation without centring at use, fitted on "
        f"{rotation.rows} vectors ({rotation.fitted_on}) of {rotation.data}{overlap}."
    )
