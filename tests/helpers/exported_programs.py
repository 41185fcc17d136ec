"""Exported models run as their users run them: from clips and texts to vectors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.portable_parts import SETTINGS, Portable


def padded_clips(clips: Sequence[np.ndarray], size: int) -> np.ndarray:
    samples = np.zeros((len(clips), size), np.float32)
    for row, clip in enumerate(clips):
        samples[row, : len(clip)] = clip
    return samples


def padded_ids(rows: Sequence[Sequence[int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.zeros((len(rows), size), np.int64), np.zeros((len(rows), size), np.bool_)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    return ids, mask


class OnnxPrograms:
    """The programs of an `--onnx` folder in onnxruntime."""

    def __init__(self, folder: Path, portable: Portable):
        import onnxruntime

        self.tokenizer = portable.tokenizer
        self.settings = json.loads((folder / SETTINGS).read_text())
        self._sessions = {
            name: onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in self.settings["programs"]
        }

    def run(self, program: str, **inputs: Any) -> list[np.ndarray]:
        session, known = self._sessions[program], self.settings["programs"][program]
        assert [one.name for one in session.get_inputs()] == list(known["inputs"])
        outputs = session.run(None, {name: inputs[name] for name in known["inputs"]})
        return [np.asarray(one) for one in outputs]

    def speech(
        self, clips: Sequence[np.ndarray], prompt: str = "", *, padding: int = 0
    ) -> np.ndarray:
        lengths = np.array([len(clip) for clip in clips])
        samples = padded_clips(clips, int(lengths.max()) + padding)
        rows = self.tokenizer.encode_prompts([prompt] * len(clips))
        ids, mask = padded_ids(rows, max(len(rows[0]), 1))
        inputs = {"samples": samples, "lengths": lengths, "prompt_ids": ids, "prompt_mask": mask}
        return self.run("speech.onnx", **inputs)[0]

    def text(self, texts: Sequence[str]) -> np.ndarray:
        rows = self.tokenizer.encode(texts)
        ids, mask = padded_ids(rows, max(map(len, rows)))
        return self.run("text.onnx", input_ids=ids, attention_mask=mask)[0]


class StablehloPrograms:
    """The programs of a `--stablehlo` folder, one length of clips and one of texts."""

    def __init__(self, folder: Path, portable: Portable):
        import jax.export

        self.tokenizer = portable.tokenizer
        self.settings = json.loads((folder / SETTINGS).read_text())
        self._weights = dict(np.load(folder / self.settings["weights"]))
        self._calls = {
            name.partition("-")[0]: (
                jax.export.deserialize((folder / name).read_bytes()).call,
                {key: one["shape"][1:] for key, one in program["inputs"].items()},
            )
            for name, program in self.settings["programs"].items()
        }

    def speech(self, clips: Sequence[np.ndarray], prompt: str = "") -> np.ndarray:
        call, sizes = self._calls["speech"]
        lengths = np.array([len(clip) for clip in clips], np.int32)
        inputs = [padded_clips(clips, sizes["samples"][0]), lengths]
        if "prompt_ids" in sizes:
            rows = self.tokenizer.encode_prompts([prompt] * len(clips))
            ids, mask = padded_ids(rows, sizes["prompt_ids"][0])
            inputs += [ids.astype(np.int32), mask]
        return np.asarray(call(self._weights, *inputs)[0])

    def text(self, texts: Sequence[str]) -> np.ndarray:
        call, sizes = self._calls["text"]
        ids, mask = padded_ids(self.tokenizer.encode(texts), sizes["input_ids"][0])
        return np.asarray(call(self._weights, ids.astype(np.int32), mask)[0])
