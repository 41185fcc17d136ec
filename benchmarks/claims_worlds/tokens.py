"""How many tokens a system gives the text tower for a second of speech."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.files import write_json
from mrl_jax.data.sets.retrieval_set import load_query_audio, read_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.evaluation.compare.stages import STAGES
from mrl_jax.inference.cascade_config import read_cascade
from mrl_jax.inference.embedder import Embedder
from mrl_jax.models.late_fusion import KERNEL, STRIDE, LateFusion

TOKENS_FILE = "speech_tokens.json"


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
        embedder = Embedder.load(folder)
        rate = embedder.model.speech.config.sample_rate
        clips = [load_query_audio(query, rate) for query in queries]
        total = _speech_tokens(embedder, clips)
        if total is not None:
            counts[name] = total / (sum(map(len, clips)) / rate)
    write_json(out, counts)
    return counts


def _speech_tokens(embedder: Embedder, clips: list[np.ndarray]) -> float | None:
    """Tokens of all clips: as the model counts them, or those of the linear head's frames."""
    model = embedder.model
    if (count := getattr(model, "count_tokens", None)) is not None:
        # A head whose number of tokens depends on what is said: one clip [1, S] at a time.
        return float(
            sum(int(count(clip[None], np.asarray([len(clip)], np.int32))[0]) for clip in clips)
        )
    if not isinstance(model, LateFusion):
        return None
    frames = np.asarray([model.speech.config.frame_count(len(clip)) for clip in clips])
    return float(np.maximum((frames - KERNEL) // STRIDE + 1, 0).sum())


def _recognised_tokens(folder: Path, name: str, report: Path) -> float:
    config = read_cascade(folder).config
    tokenizer = TextTokenizer(folder / config.text_tower, max_tokens=config.max_text_tokens)
    lines = (report / STAGES).read_text(encoding="utf-8").splitlines()
    texts = [row["recognised"] for row in map(json.loads, lines) if row["system"] == name]
    return float(sum(len(ids) - 1 for ids in tokenizer.encode(texts)))  # Less the end token.
