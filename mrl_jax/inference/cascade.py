"""The pipeline baseline at work: recogniser, translator, text tower, each stage's output kept."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float32

from mrl_jax.checkpoints.towers import load_hubert_ctc, load_qwen3
from mrl_jax.core.array_types import HostArray
from mrl_jax.data.sets.retrieval_set import Query, load_query_audio
from mrl_jax.data.text.tokenizer import TextTokenizer, query_prompt
from mrl_jax.inference.asr import Recogniser
from mrl_jax.inference.cascade_config import NONE, PipelineInfo, translator_config
from mrl_jax.inference.text_encoder import TextEmbedder
from mrl_jax.inference.translation import Translator, count_parameters


class Cascade:
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
