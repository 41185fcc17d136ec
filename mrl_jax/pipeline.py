"""The pipeline baseline at work: recogniser, translator, text tower, each stage's output kept."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from mrl_jax.array_types import Float32, HostArray
from mrl_jax.data.plain_text import plain_text
from mrl_jax.data.retrieval_set import Query, RetrievalSet, load_query_audio, read_query_column
from mrl_jax.data.text import TextTokenizer, query_prompt
from mrl_jax.data.utterances import need_transcripts, of_retrieval_set
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.embed_texts import TextEmbedder
from mrl_jax.evaluation.retrieval import Judgements, RetrievalResult, evaluate_retrieval
from mrl_jax.evaluation.transcribe import Recogniser
from mrl_jax.evaluation.translate import Translator
from mrl_jax.evaluation.translator_size import count_parameters
from mrl_jax.evaluation.wer import Comparison, compare_transcripts, import_jiwer
from mrl_jax.pipeline_folder import NONE, PipelineConfig, PipelineInfo, translator_config
from mrl_jax.tower_folder import load_hubert_ctc, load_qwen3


@dataclasses.dataclass(frozen=True)
class Stages:
    """One way from queries to results, each stage's output in the order of the queries.

    Attributes:
        heard: transcripts.
        translated: what was embedded, less the prompt: the transcripts themselves without a
            translator.
        results: at each dim.
    """

    heard: Sequence[str]
    translated: Sequence[str]
    results: Sequence[RetrievalResult]


@dataclasses.dataclass(frozen=True)
class PipelineRun:
    """A pipeline measured on a set.

    Attributes:
        stages: with the recogniser's transcripts, or those of the column.
        true: the same with the set's own transcripts; None where they are not all there,
            or are what was measured.
        errors: of the recogniser; None where `true` is.
    """

    stages: Stages
    true: Stages | None
    errors: Comparison | None


class Pipeline:
    """A pipeline with its parts in memory.

    What nothing was heard in is an empty text: nothing is translated, and the text tower
    embeds the prompt alone.

    Args:
        folder: that `info` was read from.
        info: what stands in it.

    Attributes:
        rate: samples a second that the recogniser hears; None without one.
        kind: what it is, in a few words.
        parameters: of all parts; NaN where a translator's cannot be counted.
    """

    def __init__(self, folder: Path, info: PipelineInfo):
        self.config = config = info.config
        tower = folder / config.text_tower
        tokenizer = TextTokenizer(tower, max_tokens=config.max_text_tokens)
        module = load_qwen3(tower, dtype=config.dtype)
        self.dtype = str(module.dtype)
        self._text = TextEmbedder(module, tokenizer)
        self._recogniser: Recogniser | None = None
        self._translator: Translator | None = None
        self.parameters = float(self._text.parameters)
        kinds = [f"column {config.transcripts}"]
        if config.recogniser:
            place = folder / config.recogniser
            heard = load_hubert_ctc(place, padding=config.padding, dtype=config.dtype)
            self._recogniser, kinds = Recogniser(heard), ["recogniser"]
            self.parameters += self._recogniser.parameters
        if config.translator != NONE:
            asked = translator_config(config, folder)
            self._translator = Translator(asked)
            kinds.append(f"translator {asked.source} to {asked.target}")
            self.parameters += count_parameters(asked.folder)
        self.rate = None if self._recogniser is None else self._recogniser.config.sample_rate
        self.kind = f"pipeline: {', '.join(kinds)}"

    def hear(self, queries: Sequence[Query]) -> list[str]:
        """What the recogniser makes of spoken queries, "" where it hears nothing."""
        if self._recogniser is None:
            raise ValueError("a column of transcripts stands for the recogniser")
        rate, names = self._recogniser.config.sample_rate, [f"query {q.id}" for q in queries]
        clips = [load_query_audio(query, rate) for query in queries]
        return self._recogniser.transcribe(clips, names=names, progress="recogniser")

    def translate(self, texts: Sequence[str], *, progress: str | None = None) -> list[str]:
        """What is embedded, in the order of the texts."""
        if self._translator is None:
            return list(texts)
        return self._translator.translate(texts, progress=progress)

    def embed(
        self, texts: Sequence[str], *, prompts: Sequence[str] | None = None, progress: str
    ) -> Float32[HostArray, "N E"]:
        """Vectors of queries with what stands before each, or of documents alone."""
        if prompts is not None:
            texts = [words + text for words, text in zip(prompts, texts, strict=True)]
        return self._text(texts, progress=progress)

    def alone(self, asked: HostArray | str, *, prompt: str = "") -> Callable[[], HostArray]:
        """What takes one query from samples, or its transcript, to its vector: to be timed."""

        def run() -> HostArray:
            if isinstance(asked, str):
                heard = [asked]
            else:
                assert self._recogniser is not None
                heard = self._recogniser.transcribe([asked])
            return self._text([prompt + self.translate(heard)[0]])

        return run

    def flops(self, asked: HostArray | str, *, prompt: str = "") -> float:
        """Floating-point operations of one query; NaN with a translator, which nobody counts."""
        if self._translator is not None:
            return math.nan
        total, heard = 0.0, asked
        if not isinstance(heard, str):
            assert self._recogniser is not None
            total, heard = self._recogniser.flops(heard), self._recogniser.transcribe([heard])[0]
        return total + self._text.flops(prompt + heard)

    def prompt_of(self, query: Query) -> str:
        """What stands before a query: its own prompt, or that of its task."""
        if query.prompt is not None:
            return query.prompt
        return query_prompt(self.config.prompts.get(query.task or "", ""))


def check_queries(
    name: str, config: PipelineConfig, data: RetrievalSet, place: Path | str
) -> list[str] | None:
    """What can be told before anything is encoded, and the column of a pipeline that takes one.

    Args:
        name: of the pipeline.
        config: of it.
        data: the set, less the queries without a relevant document.
        place: the set as the user named it.

    Returns:
        The column in the order of the queries; None where a recogniser hears them.

    Raises:
        MrlError: a task without a prompt; a written query for a recogniser; no such column,
            or a query whose transcript is empty, which is named; jiwer is not installed.
    """
    for query in data.queries:
        if query.task and config.prompts and query.task not in config.prompts:
            raise MrlError(
                f"the task {query.task!r} of query {query.id!r} has no prompt in {name}, "
                f"expected one of {', '.join(sorted(config.prompts))}",
                where=place,
                mend=f"correct the task, or write the pipeline with prompts.{query.task}=",
            )
    heard = None
    if config.recogniser:
        of_retrieval_set(data)
    else:
        heard = transcripts_of(data, place, config.transcripts)
    known = _known(data)
    if known is not None and known != heard:
        import_jiwer()
        if config.plain_errors:
            ids = [query.id for query in data.queries]
            need_transcripts(ids, list(map(plain_text, known)), place, column="plain transcript")
    return heard


def run_pipeline(
    pipeline: Pipeline,
    data: RetrievalSet,
    documents: Float32[HostArray, "N E"],
    judgements: Judgements,
    *,
    heard: Sequence[str] | None,
    dims: Sequence[int],
    ks: Sequence[int],
) -> PipelineRun:
    """Every stage once; the same again from the true transcripts, where they are known.

    Args:
        pipeline: to be measured.
        data: the set, less the queries without a relevant document.
        documents: the corpus by the pipeline's text tower.
        judgements: of the set.
        heard: of `check_queries`.
        dims: prefixes to search at.
        ks: ranks that metrics are cut at.

    Raises:
        MrlError: a broken recording.
    """
    prompts = [pipeline.prompt_of(query) for query in data.queries]
    heard = pipeline.hear(data.queries) if heard is None else list(heard)

    def follow(transcripts: Sequence[str]) -> Stages:
        translated = pipeline.translate(transcripts, progress="translator")
        vectors = pipeline.embed(translated, prompts=prompts, progress="queries")
        results = evaluate_retrieval(vectors, documents, judgements, dims=dims, ks=ks)
        return Stages(transcripts, translated, results)

    stages, known = follow(heard), _known(data)
    # A column that is the truth leaves nothing to compare.
    if known is None or (pipeline.config.transcripts and known == heard):
        return PipelineRun(stages, None, None)
    spelled = plain_text if pipeline.config.plain_errors else str
    errors = compare_transcripts(list(map(spelled, known)), list(map(spelled, heard)))
    return PipelineRun(stages, follow(known), errors)


def transcripts_of(data: RetrievalSet, place: Path | str, column: str) -> list[str]:
    """A column of the queries: `transcript`, `text`, or any other of a set on disk.

    Raises:
        MrlError: a query without it, or whose text is empty; another column of a set that
            is not on disk.
    """
    ids = [query.id for query in data.queries]
    if column in ("transcript", "text"):
        values = [getattr(query, column) for query in data.queries]
        return need_transcripts(ids, values, place, column=column)
    if not Path(place).is_dir():
        raise MrlError(
            f"has no column {column!r} that could be read",
            where=place,
            mend="name `transcript` or `text`, or a folder of a set",
        )
    found = read_query_column(place, column)
    return [found[key] for key in ids]


def _known(data: RetrievalSet) -> list[str] | None:
    """The true transcripts, where every query has one."""
    found = [query.transcript for query in data.queries if query.transcript]
    return found if len(found) == len(data.queries) else None
