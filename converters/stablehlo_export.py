"""Write a trained model as StableHLO programs, which JAX alone runs."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart, staged_folder, write_json
from mrl_jax.nn import param_tree
from mrl_jax.nn.block_attention import BLOCK
from mrl_jax.nn.masking import length_mask
from mrl_jax.nn.pooling import truncate

from .portable_parts import PROGRAM_INPUTS, SETTINGS, Portable
from .portable_readme import program_readme

FORM = "stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "weights.npz"
SECONDS = (2.0, 5.0, 10.0, 30.0)
"""Lengths of clips that there is a program for."""
TOKENS = (64, 512)
"""Numbers of tokens of a text that there is a program for."""
PLACES = 16
"""Room for a prompt is a multiple of so many tokens."""


def export_stablehlo(
    portable: Portable,
    out: Path,
    *,
    seconds: Sequence[float] = SECONDS,
    tokens: Sequence[int] = TOKENS,
    overwrite: bool = False,
) -> list[str]:
    """Write a program for each length, of any batch, and the weights that all of them take.

    Args:
        portable: the model.
        out: the folder to make.
        seconds: lengths of clips; shorter ones are padded.
        tokens: numbers of tokens of a text; those above what the model reads become that.
        overwrite: replace `out` if it exists.

    Returns:
        Names of the programs.

    Raises:
        MrlError: a model that reads padding as speech; a length that no clip or text has; `out`
            cannot be written.
    """
    check_apart(portable.folder, out)
    if portable.info.padding != "masked":
        raise MrlError(
            "reads padding as speech (padding is reference), and a program of fixed length pads",
            where=portable.folder,
            hint="export it with --onnx",
        )
    lengths = _sample_counts(portable, seconds)
    places = sorted({min(count, portable.tokenizer.max_tokens) for count in tokens})
    if min(places, default=0) < 1:
        raise MrlError(f"--tokens has {min(tokens, default=0)}, expected 1 or more")
    split = param_tree.split(portable.model)
    weights = {**param_tree.flatten(split.trained), **split.frozen}
    shapes = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in weights.items()}
    needs = sum(array.nbytes for array in weights.values())
    with staged_folder(out, marker=SETTINGS, overwrite=overwrite, needs_bytes=needs) as staging:
        programs = _write_programs(_Writer(staging, portable, shapes), lengths, places)
        arrays: dict[str, Any] = {path: np.asarray(array) for path, array in weights.items()}
        np.savez(staging / WEIGHTS, **arrays)
        shutil.copyfile(portable.place("text") / "tokenizer.json", staging / "tokenizer.json")
        described = {"weights": WEIGHTS, "platforms": PLATFORMS, "jax": jax.__version__}
        settings = portable.settings(FORM) | described | {"programs": programs}
        write_json(staging / SETTINGS, settings)
        (staging / "README.md").write_text(program_readme(portable, FORM), encoding="utf-8")
    return list(programs)


def _sample_counts(portable: Portable, seconds: Sequence[float]) -> list[int]:
    """Samples of each length of clips, from the shortest on.

    Raises:
        MrlError: less than a clip has, or so much that clips are computed in blocks.
    """
    config = portable.model.speech.config
    counts = sorted({round(length * config.sample_rate) for length in seconds})
    least = portable.model.min_samples
    # Longer clips are computed in blocks of frames, by another program.
    most = (2 * BLOCK - 1) * config.frame_samples + config.min_samples
    if not counts or counts[0] < least or counts[-1] > most:
        raise MrlError(
            f"--seconds is {', '.join(f'{length:g}' for length in seconds)}, expected "
            f"{least / config.sample_rate:g} to {most / config.sample_rate:g}"
        )
    return counts


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Writes programs of a model into a folder.

    Attributes:
        folder: the staged folder.
        portable: the model.
        weights: shapes of its arrays by path, which every program takes first.
    """

    folder: Path
    portable: Portable
    weights: dict[str, jax.ShapeDtypeStruct]

    def write(
        self, name: str, run: Callable[..., Any], inputs: dict[str, jax.ShapeDtypeStruct]
    ) -> dict[str, Any]:
        """One program, `run(model, *inputs)`; returns its inputs and outputs."""

        def program(weights: dict[str, Any], *inputs: Any) -> Any:
            return run(param_tree.fill(self.portable.model, weights), *inputs)

        export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
        # In float32 on every platform: TPUs would multiply in bfloat16 otherwise.
        with jax.default_matmul_precision("highest"):
            exported = export(self.weights, *inputs.values())
        (self.folder / name).write_bytes(exported.serialize())
        outputs = ["vectors", "lost_tokens"][: len(exported.out_avals)]
        described = {
            key: PROGRAM_INPUTS[key]
            | {"dtype": shape.dtype.name, "shape": ["batch", *shape.shape[1:]]}
            for key, shape in inputs.items()
        }
        return {"inputs": described, "outputs": outputs}


def _write_programs(
    writer: _Writer, lengths: Sequence[int], places: Sequence[int]
) -> dict[str, Any]:
    """A program for each length of clips and of texts; returns inputs and outputs of each."""
    portable = writer.portable
    (batch,) = jax.export.symbolic_shape("batch")

    def of_rows(dtype: Any, *sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *sizes), dtype)

    def speech(model: Any, samples: Any, lengths: Any, *prompt: Any) -> tuple[Any, ...]:
        if model.speech.config.normalize_clips:
            samples = normalize_clips(samples, lengths)
        if portable.counts_lost:
            vectors, lost = model.embed_speech_and_lost(samples, lengths, *prompt)
            return truncate(vectors, portable.dim), lost
        vectors = _own_dim(model.embed_speech(samples, lengths, *prompt), portable)
        return (truncate(vectors, portable.dim),)

    def text(model: Any, ids: Any, mask: Any) -> tuple[Any]:
        return (truncate(model.embed_text(ids, mask), portable.dim),)

    programs, prompt = {}, _prompt_places(portable)
    for length in lengths:
        inputs = {"samples": of_rows(jnp.float32, length), "lengths": of_rows(jnp.int32)}
        if portable.reads_prompts:
            inputs["prompt_ids"] = of_rows(jnp.int32, prompt)
            inputs["prompt_mask"] = of_rows(jnp.bool_, prompt)
        name = f"speech-{length}.bin"
        programs[name] = writer.write(name, speech, inputs)
    for count in places:
        inputs = {"input_ids": of_rows(jnp.int32, count)}
        inputs["attention_mask"] = of_rows(jnp.bool_, count)
        name = f"text-{count}.bin"
        programs[name] = writer.write(name, text, inputs)
    return programs


def _own_dim(vectors: Any, portable: Portable) -> Any:
    """Of vectors side by side the one of the exported dim."""
    dims = portable.model.separate_dims
    if not dims:
        return vectors
    start = sum(dims[: dims.index(portable.dim)])
    return vectors[:, start : start + portable.dim]


def normalize_clips(samples: Any, lengths: Any) -> Any:
    """Zero mean and unit variance of each clip over its own samples, zeros behind them."""
    weight = length_mask(lengths, samples.shape[1]).astype(jnp.float32)
    count = jnp.maximum(lengths, 1).astype(jnp.float32)[:, None]
    centred = samples - jnp.sum(samples * weight, axis=1, keepdims=True) / count
    variance = jnp.sum(jnp.square(centred) * weight, axis=1, keepdims=True) / count
    return centred / jnp.sqrt(variance + 1e-7) * weight


def _prompt_places(portable: Portable) -> int:
    """Places for a prompt: room for the longest of the model's, and one at the least."""
    prompts = [*portable.prompts.values(), portable.speech_prompt]
    longest = max(map(len, portable.tokenizer.encode_prompts(prompts)))
    return -(-max(longest, 1) // PLACES) * PLACES
