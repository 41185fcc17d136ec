"""A model of speech and text as sentence-transformers loads it; no part of mrl_jax is needed.

This file is written into exported folders, which `SentenceTransformer(FOLDER,
trust_remote_code=True)` loads. Inputs are texts, and recordings as files or as
`{"array": samples, "sampling_rate": rate}`; reading files takes soundfile, and another sample rate
than the model's takes librosa.
"""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules.input_module import InputModule
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging

from .torch_model import SpeechTextModel

SETTINGS = "mrl_jax_export.json"
HEAD = "head.safetensors"
TOWERS = ("speech", "text")
UNREAD = ("masked_spec_embed", "num_batches_tracked")
"""Ends of names of what training alone reads, which not every checkpoint has."""
RECORDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif", ".au", ".caf")
"""Ends of names of files that hold speech."""
LOUDEST, SILENT = 4.0, 0.5 / 32768
"""A recording's largest sample is between them, as in mrl_jax."""


def read_settings(folder: Path) -> dict[str, Any]:
    """The contents of the folder's mrl_jax_export.json."""
    return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))


def load_model(
    folder: str, settings: Mapping[str, Any], *, head: str | None = None
) -> SpeechTextModel:
    """The model of an exported folder in evaluation mode, in float32."""
    towers = [_tower(Path(folder, name)) for name in TOWERS]
    tensors = load_file(head or Path(folder, HEAD))
    return SpeechTextModel(towers[0], towers[1], tensors, settings).eval()


def _tower(folder: Path) -> Any:
    """A tower of transformers, whose report on what it does not use is left out.

    Raises:
        ValueError: weights are missing, which transformers would draw at random.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        tower, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    finally:
        logging.set_verbosity(verbosity)
    lacking = {name for name in report["missing_keys"] if not name.endswith(UNREAD)}
    if lacking:
        raise ValueError(f"{folder} lacks weights: {', '.join(sorted(lacking))}")
    return tower


class SpeechText(InputModule):
    """The one module of the folder: from texts or recordings to unit vectors.

    Args:
        model: towers and head.
        tokenizer: of the text tower.
        settings: the contents of mrl_jax_export.json.
    """

    config_file_name = SETTINGS

    def __init__(self, model: SpeechTextModel, tokenizer: Tokenizer, settings: dict[str, Any]):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer, which the base class allows to be one of transformers."""
        return self.tokenizer

    @property
    def modalities(self) -> list[Any]:
        return ["text", "audio"]

    @property
    def max_seq_length(self) -> int:
        return self.settings["tokens"]["max_tokens"]

    def get_embedding_dimension(self) -> int:
        return self.settings["dim"]

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Tensors of a batch, of texts alone or of recordings alone.

        Args:
            inputs: the batch.
            prompt: put before each query, word for word. Without one texts are documents, and
                recordings have the model's own prompt for queries without a task, if there is one.
        """
        kinds = {self._kind(one) for one in inputs}
        if kinds == {"text"}:
            before = self.settings["document_prompt"] if prompt is None else prompt
            rows = self._tokens([before + text for text in inputs])
            ids, mask = _padded(rows)
            return {"input_ids": ids, "attention_mask": mask, "modality": "text"}
        if kinds != {"audio"}:
            raise ValueError("expected texts alone or recordings alone: encode them in two calls")
        clips = [self._samples(one) for one in inputs]
        lengths = torch.tensor([len(clip) for clip in clips])
        samples = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in enumerate(clips):
            samples[row, : len(clip)] = torch.from_numpy(clip)
        features: dict[str, Any] = {"samples": samples, "lengths": lengths, "modality": "audio"}
        prompt = self.settings["speech_prompt"] if prompt is None else prompt
        if prompt:
            ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
            ids, mask = _padded([ids] * len(clips))
            features |= {"prompt_ids": ids, "prompt_mask": mask}
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if "input_ids" in features:
            vectors = self.model.embed_text(features["input_ids"], features["attention_mask"])
        else:
            prompt = features.get("prompt_ids"), features.get("prompt_mask")
            vectors, lost = self.model.embed_speech(
                features["samples"], features["lengths"], *prompt
            )
            if lost.any():
                raise ValueError(
                    f"a recording has {int(lost.max())} speech tokens more than there is room for"
                )
        return {**features, "sentence_embedding": vectors}

    def _kind(self, one: Any) -> str:
        """What an input is; the name of a recording that is not there is no text."""
        if isinstance(one, str) and one.lower().endswith(RECORDINGS):
            if os.path.isfile(one):  # False, too, for a text too long for a name.
                return "audio"
            if len(one.split()) == 1 and not one.lower().endswith(".au"):  # Of addresses too.
                raise ValueError(f"{one}: no such recording (with a space behind it, it is a text)")
        return str(infer_modality(one, self.modalities))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, cut to what the model takes, special tokens around it."""
        options = self.settings["tokens"]
        prefix, suffix = options["prefix"], options["suffix"]
        room = max(options["max_tokens"] - len(prefix) - len(suffix), 0)
        rows = []
        for item in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            tail = options["keeps_tail"]
            ids = item.ids[max(len(item.ids) - room, 0) :] if tail else item.ids[:room]
            rows.append([*prefix, *ids, *suffix] or options["empty"])
        return rows

    def _samples(self, clip: Any) -> np.ndarray:
        """A recording [S] at the model's sample rate, in float32."""
        rate = self.settings["sample_rate"]
        if isinstance(clip, Mapping) and set(clip) == {"audio"}:
            clip = clip["audio"]
        if isinstance(clip, str):
            name, soundfile = clip, importlib.import_module("soundfile")
            samples, own_rate = soundfile.read(clip, dtype="float32", always_2d=True)
            samples = samples.mean(axis=1)
        else:
            name = "a recording"
            pair = (clip["array"], clip["sampling_rate"]) if isinstance(clip, Mapping) else None
            samples, own_rate = pair or (clip, rate)
            samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise ValueError(f"{name}: expected one row of finite floats from -1 to 1")
        samples = samples.astype(np.float32)
        if own_rate != rate:
            librosa = importlib.import_module("librosa")
            samples = librosa.resample(
                samples, orig_sr=own_rate, target_sr=rate, res_type="soxr_hq"
            )
        if len(samples) < (least := self.settings["min_samples"]):
            raise ValueError(f"{name}: {len(samples)} samples, fewer than the {least} of one token")
        if (peak := float(np.abs(samples).max())) > LOUDEST:
            raise ValueError(f"{name}: samples reach {peak:g}, expected floats from -1 to 1")
        if peak <= SILENT:
            raise ValueError(f"{name}: is silent")
        return samples

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        folder = Path(output_path)
        for name, tower in zip(TOWERS, (self.model.speech, self.model.text), strict=True):
            tower.save_pretrained(folder / name)
        self._tokenizer.save(str(folder / "text" / "tokenizer.json"))
        save_file({k: x.contiguous() for k, x in self.model.tensors().items()}, folder / HEAD)
        text = json.dumps(self.settings, indent=1, ensure_ascii=False)
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "SpeechText":
        """The module of a local folder, or of one on the hub."""
        hub: dict[str, Any] = {
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        settings = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        places = {
            name: cls.load_dir_path(model_name_or_path, Path(subfolder, name).as_posix(), **hub)
            for name in TOWERS
        }
        head = cls.load_file_path(model_name_or_path, HEAD, subfolder=subfolder, **hub)
        lacking = [name for name, place in {**places, HEAD: head}.items() if place is None]
        if lacking:
            raise ValueError(f"{model_name_or_path} lacks {', '.join(lacking)}")
        tokenizer = Tokenizer.from_file(str(Path(str(places["text"]), "tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        folder = str(Path(str(places["text"])).parent)
        return cls(load_model(folder, settings, head=head), tokenizer, settings)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, L] and their mask, True at tokens."""
    size = max(map(len, rows))
    ids = torch.zeros(len(rows), size, dtype=torch.long)
    mask = torch.zeros(len(rows), size, dtype=torch.bool)
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values, dtype=torch.long)
        mask[row, : len(values)] = True
    return ids, mask
