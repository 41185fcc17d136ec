"""How far the vectors of exported models are from those of `Embedder`, for each form.

    python benchmarks/exports.py [--model NAME=FOLDER ...]

Tiny models with random weights, one of each kind of head over speech towers of several variants,
and trained models that are given. Speech in a batch of mixed lengths and text, with and without a
prompt, at the width and at every trained dim.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import record

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "helpers")]
RATE = 16_000
PROMPT = "gu ba ce\nQuery:"
Encode = tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]
"""(clips, prompt) and (texts) to vectors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    from tiny_exports import CASES, make_case

    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_MODULES_CACHE"] = f"{scratch}/modules"
        for name in CASES:
            root = Path(scratch) / name.replace(" ", "_")
            figures[name] = measure(make_case(name, root), root)
        for given in args.model:
            name, _, folder = given.partition("=")
            root = Path(scratch) / f"given_{name}"
            figures[name] = measure(Path(folder), root)
    record("exports", {"target": "every difference below 1e-4", "figures": figures})


def measure(model: Path, root: Path) -> dict[str, dict[str, float]]:
    """Largest differences of each form, and how far apart different inputs are."""
    from tiny_exports import make_clips, make_texts

    from converters.portable_parts import read_portable
    from mrl_jax import Embedder

    clips, texts = make_clips(), make_texts()
    embedder, portable = Embedder.load(model, dtype="float32"), read_portable(model, None)
    pairs = [(clip, RATE) for clip in clips]
    ours = {
        "speech": embedder.embed_speech(pairs, prompt=""),
        "speech, prompt": embedder.embed_speech(pairs, prompt=PROMPT),
        "text": embedder.embed_text(texts, prompt=""),
        "text, prompt": embedder.embed_text(texts, prompt=PROMPT),
    }
    figures = {}
    for form, make in FORMS.items():
        speech, text = make(portable, root / form)
        theirs = {
            "speech": speech(clips, ""),
            "speech, prompt": speech(clips, PROMPT),
            "text": text(texts),
            "text, prompt": text([PROMPT + one for one in texts]),
        }
        figures[form] = {
            key: largest(ours[key], theirs[key], dims_of(key, embedder)) for key in ours
        }
        print(model.parent.name, form, figures[form], flush=True)
    figures["different inputs"] = {
        key: float(np.abs(vectors[0] - vectors[1]).max()) for key, vectors in ours.items()
    }
    return figures


def dims_of(key: str, embedder: Any) -> tuple[int, ...]:
    """Dims whose prefixes are compared; speech with separate dims has none but its own."""
    separate = embedder.model.separate_dims and key.startswith("speech")
    return (embedder.width,) if separate else (embedder.width, *embedder.info.dims)


def largest(ours: np.ndarray, theirs: np.ndarray, dims: Sequence[int]) -> float:
    """The largest difference of a coordinate, over prefixes at unit length."""

    def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
        vectors = vectors[:, :dim].astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return max(float(np.abs(cut(ours, dim) - cut(theirs, dim)).max()) for dim in dims)


def sentence_transformers(portable: Any, out: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    from converters.sentence_export import export_sentence_transformers

    export_sentence_transformers(portable, out)
    model = SentenceTransformer(str(out), trust_remote_code=True, device="cpu")

    def speech(clips: Sequence[np.ndarray], prompt: str) -> np.ndarray:
        pairs = [{"array": clip, "sampling_rate": RATE} for clip in clips]
        return np.asarray(model.encode(pairs, prompt=prompt))

    return speech, lambda texts: np.asarray(model.encode(texts, prompt=""))


def onnx(portable: Any, out: Path) -> Encode:
    from exported_programs import OnnxPrograms

    from converters.onnx_export import export_onnx

    export_onnx(portable, out)
    programs = OnnxPrograms(out, portable)
    return programs.speech, programs.text


def stablehlo(portable: Any, out: Path) -> Encode:
    from exported_programs import StablehloPrograms

    from converters.stablehlo_export import export_stablehlo

    export_stablehlo(portable, out, seconds=[1.0], tokens=[64])
    programs = StablehloPrograms(out, portable)
    return programs.speech, programs.text


FORMS: dict[str, Callable[[Any, Path], Encode]] = {
    "sentence-transformers": sentence_transformers,
    "ONNX": onnx,
    "StableHLO": stablehlo,
}

if __name__ == "__main__":
    main()
