"""Write a trained model as ONNX programs: samples or token ids in, vectors out."""

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax.core.files import check_apart, staged_folder, write_json
from mrl_jax.nn import param_tree

from .portable_parts import PROGRAM_INPUTS, SETTINGS, Portable
from .portable_readme import program_readme
from .sentence_export import published_towers, write_torch_folder

FORM = "onnx"
OPSET = 20
"""The version of ONNX's operators."""


def export_onnx(portable: Portable, out: Path, *, overwrite: bool = False) -> list[str]:
    """Write `speech.onnx` and `text.onnx`, made by torch.onnx from the PyTorch form.

    Args:
        portable: the model.
        out: the folder to make.
        overwrite: replace `out` if it exists.

    Returns:
        Names of the programs.

    Raises:
        MrlError: a head without a PyTorch form; a damaged tower; `out` cannot be written.
    """
    check_apart(portable.folder, out)
    towers = published_towers(portable)
    # The towers as they are stored, for a while, and in float32 in both programs.
    size = sum(tensors.size for tensors in towers.values())
    size += 8 * param_tree.count(param_tree.flat_weights(portable.model))
    with staged_folder(out, marker=SETTINGS, overwrite=overwrite, needs_bytes=size) as staging:
        torch_folder = staging / "torch"
        torch_folder.mkdir()
        write_torch_folder(torch_folder, portable, towers)
        programs = _write_programs(staging, torch_folder, portable)
        shutil.rmtree(torch_folder)
        shutil.copyfile(portable.place("text") / "tokenizer.json", staging / "tokenizer.json")
        settings = portable.settings(FORM) | {"opset": OPSET, "programs": programs}
        write_json(staging / SETTINGS, settings)
        (staging / "README.md").write_text(program_readme(portable, FORM), encoding="utf-8")
    return list(programs)


def _write_programs(staging: Path, torch_folder: Path, portable: Portable) -> dict[str, Any]:
    """Both programs; returns the inputs and outputs of each."""
    import torch

    from .torch_modeling import load_model, read_settings
    from .torch_programs import SpeechProgram, TextProgram

    model = load_model(str(torch_folder), read_settings(torch_folder))
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples")
    # Of no input is a size 1 here: PyTorch would take it for fixed.
    tokens = torch.ones(2, 5, dtype=torch.long)
    length = portable.model.min_samples + 8 * portable.model.speech.config.frame_samples
    speech: dict[str, Any] = {
        "samples": (torch.zeros(2, length), {0: batch, 1: samples}),
        "lengths": (torch.tensor([length, length - 1]), {0: batch}),
    }
    if portable.reads_prompts:
        prompt = torch.export.Dim("prompt")
        speech["prompt_ids"] = tokens, {0: batch, 1: prompt}
        speech["prompt_mask"] = tokens.bool(), {0: batch, 1: prompt}
    places = torch.export.Dim("tokens")
    text: dict[str, Any] = {
        "input_ids": (tokens, {0: batch, 1: places}),
        "attention_mask": (tokens.bool(), {0: batch, 1: places}),
    }
    counts_lost = portable.counts_lost
    outputs = ["vectors", "lost_tokens"] if counts_lost else ["vectors"]
    program = SpeechProgram(model, counts_lost=counts_lost)
    return {
        "speech.onnx": _write(program, speech, outputs, staging / "speech.onnx"),
        "text.onnx": _write(TextProgram(model), text, ["vectors"], staging / "text.onnx"),
    }


def _write(
    module: Any, inputs: Mapping[str, tuple[Any, Any]], outputs: Sequence[str], path: Path
) -> dict[str, Any]:
    """One program, its weights in a file beside it; returns its inputs and outputs."""
    import torch

    arguments, shapes = zip(*inputs.values(), strict=True)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=True)
    return {"inputs": {name: PROGRAM_INPUTS[name] for name in inputs}, "outputs": list(outputs)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own notes: of packages that are not there, and of its progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
