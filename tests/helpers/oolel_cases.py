"""The published speech model's folders beside the checkout: oracles, and how they break."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from published import edit_json
from repository import SHARED_DATA
from safetensors.numpy import load_file, save_file

from mrl_jax.checkpoints.models import load_model, read_model_info
from mrl_jax.models.inputs import pad_clips

PUBLISHED = SHARED_DATA / "oolel_published"
KINDS = {"lf": "late_fusion", "clip": "dual_encoder"}
DIMS = (1024, 512, 256, 128)


def oracle(mode: str) -> tuple[np.ndarray, np.ndarray]:
    """A waveform [S], and what the published code gave for it."""
    with np.load(PUBLISHED / mode / "oracle.npz") as arrays:
        return arrays["wave"], arrays["emb"]


def error_in_late_fusion(model: Path, wave: np.ndarray, expected: np.ndarray) -> float:
    loaded = load_model(model, read_model_info(model))
    samples, lengths = pad_clips([wave], loaded.speech.config)
    ours = np.asarray(loaded.embed_speech(samples, lengths))
    return float(np.abs(ours[:, : expected.shape[1]] - expected).max())


def error_in_the_dual_encoder(model: Path, wave: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of the four vectors before they are normalised."""
    loaded = load_model(model, read_model_info(model))
    samples, lengths = pad_clips([wave], loaded.speech.config)
    output = loaded.speech(samples, lengths)
    vectors = loaded.head(output.layer_states, output.frame_mask)
    assert [vector.shape[1] for vector in vectors] == list(DIMS)
    return max(
        float(np.abs(np.asarray(vector)[0] - row[:dim]).max())
        for vector, row, dim in zip(vectors, expected, DIMS, strict=True)
    )


ERRORS = {"lf": error_in_late_fusion, "clip": error_in_the_dual_encoder}


def rewrite(folder: Path, change: Any) -> Path:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def both_modes(source: Path) -> None:
    clip = load_file(PUBLISHED / "clip" / "hubert_mrl" / "model.safetensors")
    rewrite(source / "hubert_mrl", lambda tensors: clip | tensors)


def other_query(source: Path) -> None:
    query = {"pooling_parameters": np.ones((1, 576), np.float32)}
    rewrite(source / "hubert_mrl", lambda tensors: tensors | query)


def no_head(source: Path) -> None:
    rewrite(
        source / "hubert_mrl",
        lambda tensors: {k: v for k, v in tensors.items() if k.startswith("hubert.")},
    )


def narrow_text(source: Path) -> None:
    shutil.rmtree(source / "hubert_mrl")
    shutil.copytree(PUBLISHED / "clip" / "hubert_mrl", source / "hubert_mrl")
    edit_json(source / "oolel_mrl" / "config.json", hidden_size=512)
    edit_json(source / "oolel_mrl" / "1_Pooling" / "config.json", embedding_dimension=512)

    def cut(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        def half(tensor: np.ndarray) -> np.ndarray:
            return tensor[tuple(slice(512 if size == 1024 else size) for size in tensor.shape)]

        return {key: np.ascontiguousarray(half(tensor)) for key, tensor in tensors.items()}

    rewrite(source / "oolel_mrl", cut)


def extra(source: Path) -> None:
    more = {"gate.weight": np.ones(2, np.float32)}
    rewrite(source / "hubert_mrl", lambda tensors: tensors | more)


def no_bias(source: Path) -> None:
    rewrite(
        source / "hubert_mrl",
        lambda tensors: {k: v for k, v in tensors.items() if k != "pooling_parameters.bias"},
    )


def wide_head(source: Path) -> None:
    key = "projector.weight"
    rewrite(source / "hubert_mrl", lambda tensors: tensors | {key: tensors[key].astype(np.float64)})


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "two modes": (
        both_modes,
        (
            "hubert_mrl: holds the tensors of two modes",
            "late_fusion (",
            "projector.weight",
            "dual_encoder (",
            "matryoshka_layers.",
        ),
    ),
    "a second query": (other_query, ("holds the tensors of two modes", "(pooling_parameters)")),
    "no head": (no_head, ("hubert_mrl: has a speech tower and no head", "projector.weight")),
    "only speech": (
        lambda source: shutil.rmtree(source / "oolel_mrl"),
        ("has no text tower: hubert_mrl is there", "as oolel_mrl beside it", "SPEECH TEXT OUT"),
    ),
    "only text": (
        lambda source: shutil.rmtree(source / "hubert_mrl"),
        ("has no speech tower: oolel_mrl is there", "as hubert_mrl beside it"),
    ),
    "two speech towers": (
        lambda source: shutil.copytree(source / "hubert_mrl", source / "another"),
        ("has several speech towers, another and hubert_mrl", "name the two"),
    ),
    "a narrow text tower": (
        narrow_text,
        ("layers.1024 gives 1024 numbers", "1 to 512, the width of the text tower's vectors"),
    ),
    "a tensor too many": (extra, ("hubert_mrl: 1 problem", "unknown: gate.weight")),
    "a tensor too few": (no_bias, ("1 problem", "missing: pooling_parameters.bias")),
    "a head in float64": (
        wide_head,
        ("projector.weight is of dtype F64", "save the weights in float32"),
    ),
    "another class": (
        lambda source: edit_json(source / "hubert_mrl" / "config.json", architectures=["Own"]),
        ("architectures names Own, expected",),
    ),
    "an adapter beside": (
        lambda source: (source / "oolel_mrl" / "adapter_config.json").write_text("{}"),
        ("oolel_mrl: holds a LoRA adapter beside the weights", "merge_and_unload"),
    ),
    "no weights": (
        lambda source: (source / "hubert_mrl" / "model.safetensors").unlink(),
        ("hubert_mrl: has no weights",),
    ),
}
"""Name: a change of the folder of late fusion, and words of the refusal."""
