"""The cascade baseline at work: recogniser, translator, text tower, each stage's output kept."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float32

from mrl_jax.checkpoints.towers import load_hubert_ctc, load_qwen3
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.data.sets.retrieval_set import Query, load_query_clips
from mrl_jax.data.text.prompts import prompt_of
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import Recogniser
from mrl_jax.inference.cascade_config import NONE, CascadeInfo, translator_config
from mrl_jax.inference.text_encoder import TextEmbedder
from mrl_jax.inference.translation import Translator


class Cascade:
    """A cascade with its parts in memory.

    A clip in which the recogniser finds no speech has an empty transcript: nothing is
    translated, and the text tower embeds the prompt alone.

    Args:
        folder: that `info` was read from.
        info: the contents of its cascade.json.
        verify: compare the towers' files with their digests.

    Attributes:
        rate: sample rate of the recogniser's clips; None without one.
        kind: what it is, in a few words.
        parameters: of all parts; NaN with a translator, as CTranslate2 does not count weights.
    """

    def __init__(self, folder: Path, info: CascadeInfo, *, verify: bool = True):
        self.config = config = info.config
        tower = folder / config.text_tower
        tokenizer = TextTokenizer(tower, max_tokens=config.max_text_tokens)
        module = load_qwen3(tower, dtype=config.dtype, verify=verify)
        self.dtype = str(module.dtype)
        self._text = TextEmbedder(module, tokenizer)
        self._recogniser: Recogniser | None = None
        self._translator: Translator | None = None
        self.parameters = float(self._text.parameters)
        kinds = [f"column {config.transcripts}"]
        if config.recogniser:
            place = folder / config.recogniser
            options = {"padding": config.padding, "dtype": config.dtype, "verify": verify}
            model = load_hubert_ctc(place, **options)
            self._recogniser, kinds = Recogniser(model), ["recogniser"]
            self.parameters += self._recogniser.parameters
        if config.translator != NONE:
            translator = translator_config(config, folder)
            self._translator = Translator(translator)
            kinds.append(f"translator {translator.source} to {translator.target}")
            self.parameters = math.nan
        self.rate = None if self._recogniser is None else self._recogniser.config.sample_rate
        self.kind = f"cascade: {', '.join(kinds)}"

    def transcribe(self, queries: Sequence[Query]) -> list[str]:
        """The recogniser's transcripts of spoken queries, "" where it finds no speech."""
        if self._recogniser is None:
            raise ArgumentError("a column of transcripts stands for the recogniser")
        rate, names = self._recogniser.config.sample_rate, [f"query {q.id}" for q in queries]
        clips = load_query_clips(queries, rate)
        return self._recogniser.transcribe(clips, names=names, progress="recogniser")

    def translate(self, texts: Sequence[str], *, progress: str | None = None) -> list[str]:
        """Translations in the order of the texts; the texts themselves without a translator."""
        if self._translator is None:
            return list(texts)
        return self._translator.translate(texts, progress=progress)

    def embed(
        self, texts: Sequence[str], *, prompts: Sequence[str] | None = None, progress: str
    ) -> Float32[HostArray, "N E"]:
        """Vectors of queries, each after its prompt, or of documents where `prompts` is None."""
        if prompts is None:
            return self._text(texts, documents=True, progress=progress)
        asked = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        return self._text(asked, progress=progress)

    def alone(self, query: HostArray | str, *, prompt: str = "") -> Callable[[], HostArray]:
        """A function that takes one query, samples or a transcript, to its vector: to be timed."""

        def run() -> HostArray:
            return self._text([prompt + self.translate([self._transcript(query)])[0]])

        return run

    def flops(self, query: HostArray | str, *, prompt: str = "") -> float:
        """Floating-point operations of one query; NaN with a translator, which has no count."""
        if self._translator is not None:
            return math.nan
        total = 0.0
        if not isinstance(query, str):
            assert self._recogniser is not None
            total = self._recogniser.flops(query)
        return total + self._text.flops(prompt + self._transcript(query))

    def prompt_of(self, query: Query) -> str:
        """The prompt of a query: its own, or that of its task."""
        where = f"query {query.id!r}"
        return prompt_of(query.task, self.config.prompts, where, prompt=query.prompt)

    def _transcript(self, query: HostArray | str) -> str:
        if isinstance(query, str):
            return query
        assert self._recogniser is not None
        return self._recogniser.transcribe([query])[0]
