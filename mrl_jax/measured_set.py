"""A retrieval set as a model sees it: encoded once, with its dims and clusters."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.array_types import HostArray
from mrl_jax.data.retrieval_set import RetrievalSet, load_queries
from mrl_jax.embedder import Embedder, warn_untrained
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.comparison import Clusters
from mrl_jax.evaluation.retrieval import Judgements, check_dims
from mrl_jax.evaluation.vectors import Vectors, check_separate


def encode_set(embedder: Embedder, data: RetrievalSet) -> tuple[Vectors, HostArray]:
    """Vectors of queries, and [N, E] of the corpus, the model run once over each.

    Raises:
        MrlError: a broken recording; queries both spoken and written.
    """
    return encode_queries(embedder, data), encode_corpus(embedder, data)


def encode_queries(embedder: Embedder, data: RetrievalSet) -> Vectors:
    """Vectors of the queries, which are all spoken or all written.

    Raises:
        MrlError: a broken recording; queries both spoken and written.
    """
    rate = embedder.model.speech.config.sample_rate
    spoken = [query for query in data.queries if query.audio is not None]
    if spoken and len(spoken) < len(data.queries):
        raise MrlError(
            f"{len(spoken)} of {len(data.queries)} queries are spoken and the others written",
            where="queries",
            mend="measure them as two sets",
        )
    if spoken:
        clips, tasks, names = load_queries(spoken, rate)
        return embedder.encoder.speech(clips, tasks=tasks, names=names, progress="queries")
    return embedder.encoder.text([q.text or "" for q in data.queries], progress="queries")


def encode_corpus(embedder: Embedder, data: RetrievalSet) -> HostArray:
    """[N, E] vectors of the documents."""
    return embedder.encoder.text([doc.text for doc in data.corpus], progress="corpus")


def need_prefixes(embedder: Embedder, model: Path) -> None:
    """Refuse a model whose query vectors of one dim are no prefixes of another's.

    Raises:
        MrlError: naming what such a model can be measured with.
    """
    if embedder.model.separate_dims:
        raise MrlError(
            "has separate query vectors for each dimension, and only prefixes of one vector can "
            "be measured so",
            where=model,
            mend="use retrieval, robustness, intent or compare, or train with model.nested=true",
        )


def clusters_of(data: RetrievalSet, judgements: Judgements) -> Clusters:
    """Texts and speakers of the judged queries; one without words, or a name, is like no other."""
    asked = [data.queries[row] for row in judgements.judged]
    words = [query.transcript or query.text for query in asked]
    texts = [(said, None) if said else query.id for said, query in zip(words, asked, strict=True)]
    speakers = [(query.speaker, None) if query.speaker else query.id for query in asked]
    named = any(query.speaker for query in asked)
    return Clusters(texts=texts, speakers=speakers if named else None)


def chosen_dims(embedder: Embedder, dims: Sequence[int] | None) -> tuple[int, ...]:
    """The dims to measure: those trained for None. Warns of others, refuses impossible ones."""
    if dims is None:
        return tuple(embedder.info.dims)
    check_dims(dims, embedder.width, where="--dims")
    for dim in dims:
        check_separate(dim, embedder.model.separate_dims, where="--dims")
        warn_untrained(dim, embedder.info.dims, stacklevel=3)
    return tuple(dims)


def set_name(data: Path | str) -> str:
    """What a set is called: its name, or that of its folder."""
    return Path(data).resolve().name if Path(data).exists() else str(data).partition("@")[0]
