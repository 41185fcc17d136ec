"""How many tokens a system gives the text tower for a second of speech."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax import nnx

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.core.files import write_json
from mrl_jax.data.sets.retrieval_set import load_query_audio, read_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.evaluation.compare.stages import STAGES
from mrl_jax.inference.cascade_config import read_cascade
from mrl_jax.inference.embedder import Embedder
from mrl_jax.models.fusion import FusionModel
from mrl_jax.models.inputs import pad_clips

TOKENS_FILE = "speech_tokens.json"
BATCH = 16


def write_token_counts(
    out: Path, folders: Mapping[str, Path], data: Path, report: Path
) -> dict[str, float]:
    """Tokens a second by system; those that send none to the text tower are left out.

    Args:
        out: file that gets them.
        folders: systems by name.
        data: the test set.
        report: of `eval compare`, for what the cascade recognised.
    """
    queries = read_retrieval_set(data).queries
    counts: dict[str, float] = {}
    for name, folder in folders.items():
        if not (folder / MODEL_FILE).is_file():
            tokens = _recognised_tokens(folder, name, report)
            rate = 16_000
            seconds = sum(len(load_query_audio(query, rate)) for query in queries) / rate
            counts[name] = tokens / seconds
            continue
        model = Embedder.load(folder).model
        if isinstance(model, FusionModel):
            rate = model.speech.config.sample_rate
            clips = [load_query_audio(query, rate) for query in queries]
            counts[name] = _speech_tokens(model, clips) / (sum(map(len, clips)) / rate)
    write_json(out, counts)
    return counts


def _speech_tokens(model: FusionModel, clips: Sequence[HostArray]) -> int:
    """Tokens of all clips [S] together."""

    @nnx.jit
    def count(model: FusionModel, samples: AnyArray, lengths: AnyArray) -> AnyArray:
        output = model.speech(samples, lengths)
        return model.speech_tokens(output.layer_states, output.frame_mask).counts

    total, longest = 0, max(map(len, clips))
    for start in range(0, len(clips), BATCH):
        some = clips[start : start + BATCH]
        filled = [*some, *[some[0]] * (BATCH - len(some))]  # One shape, compiled once.
        counts = count(model, *pad_clips(filled, model.speech.config, size=longest))
        total += int(counts[: len(some)].sum())
    return total


def _recognised_tokens(folder: Path, name: str, report: Path) -> float:
    config = read_cascade(folder).config
    tokenizer = TextTokenizer(folder / config.text_tower, max_tokens=config.max_text_tokens)
    lines = (report / STAGES).read_text(encoding="utf-8").splitlines()
    texts = [row["recognised"] for row in map(json.loads, lines) if row["system"] == name]
    return float(sum(len(ids) - 1 for ids in tokenizer.encode(texts)))  # Less the end token.
