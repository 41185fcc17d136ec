"""Language adapters of MMS checkpoints: one file a language, in place of the one that is inside.

A checkpoint with adapters is whole for one language. `adapter.LANGUAGE.safetensors` (or .bin)
holds what another one has of its own: an adapter in every layer, and an output layer. Source:
Pratap et al., 2023 (arXiv 2305.13516), in the form that transformers' Wav2Vec2ForCTC reads.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean

from .checkpoints import Checkpoint, damaged, open_weights, read_json
from .rules import first_of

SUFFIXES = ("safetensors", "bin")
OUTPUT = "lm_head."


def adapter_files(language: str) -> tuple[str, ...]:
    """Names that a language's adapter may have.

    Raises:
        MrlError: `language` cannot be a part of a file's name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", language):
        hint = "pass a language's code as the checkpoint spells it, such as wol"
        raise MrlError(f"--language is {language!r}, expected letters, digits, - and _", hint=hint)
    return tuple(f"adapter.{language}.{suffix}" for suffix in SUFFIXES)


def with_adapter(checkpoint: Checkpoint, language: str) -> Checkpoint:
    """The checkpoint with the adapter and the output layer of `language` in place of its own.

    Raises:
        MrlError: it has no adapters, none for this language, or one of another model.
    """
    folder = checkpoint.folder
    if checkpoint.config.get("adapter_attn_dim") is None:
        raise MrlError(
            "adapter_attn_dim is not set: this model has no language adapters",
            where=folder / "config.json",
            hint="leave --language out",
        )
    path = _find(folder, language)
    own, read_own = open_weights([path])
    inside = {key for key in checkpoint.tensors if _is_of_a_language(key)}
    problems = [f"lacks {key}" for key in sorted(inside - set(own))]
    problems += [f"holds {key}" for key in sorted(set(own) - inside) if not key.startswith(OUTPUT)]
    problems += [
        f"holds {key} of shape {own[key].shape}, expected {checkpoint.tensors[key].shape}"
        for key in sorted(inside & set(own))
        if not key.startswith(OUTPUT) and own[key].shape != checkpoint.tensors[key].shape
    ]
    if problems:
        problem = f"is no adapter of this model: {first_of(problems, 'more', at_most=3)}"
        raise damaged(problem, path, hint="take the adapter from the checkpoint's own folder")

    def read(key: str) -> HostArray:
        return (read_own if key in own else checkpoint.read)(key)

    tensors = {**checkpoint.tensors, **own}
    return dataclasses.replace(checkpoint, tensors=tensors, read=read, language=language)


def one_language(
    vocabulary: Mapping[str, Any], language: str | None, where: Path
) -> dict[str, Any]:
    """The ids by token of one language, where a vocab.json has those of several.

    Raises:
        MrlError: it has several, and not that one.
    """
    languages = _nested(vocabulary)
    if not languages:
        return dict(vocabulary)
    if language in languages:
        return dict(vocabulary[language])
    known = first_of(languages, "more", at_most=20)
    missing = "none is chosen" if language is None else f"not of {language!r}"
    raise MrlError(
        f"holds the characters of {known}, and {missing}",
        where=where,
        hint="pass --language, or remove the file: then the model gives no text",
    )


def export_language(
    folder: Path, language: str, tensors: Mapping[str, Callable[[], HostArray]], outputs: int
) -> None:
    """Make an exported folder that of one language, for transformers to load without options.

    Args:
        folder: with the published small files, whose fields are changed.
        tensors: by published name; those of the language are also written as its adapter.
        outputs: rows of the output layer.
    """
    _set(folder / "config.json", vocab_size=outputs)
    if (folder / "tokenizer_config.json").is_file():
        _set(folder / "tokenizer_config.json", target_lang=language)
    adapter = {key: make() for key, make in tensors.items() if _is_of_a_language(key)}
    save_file(adapter, folder / adapter_files(language)[0], metadata={"format": "pt"})


def _find(folder: Path, language: str) -> Path:
    for name in adapter_files(language):
        if (folder / name).is_file():
            return folder / name
    pattern = re.compile(rf"adapter\.(.+)\.(?:{'|'.join(SUFFIXES)})")
    names = (pattern.fullmatch(path.name) for path in folder.glob("adapter.*"))
    there = sorted({name[1] for name in names if name})
    if not there:
        # Of the hub's files only those of this language were asked for.
        there = sorted(_languages(folder / "vocab.json"))
    if not there or language in there:
        hint = f"put {adapter_files(language)[0]} of the same model beside its weights"
        raise MrlError(f"has no adapter for {language!r}", where=folder, hint=hint)
    raise MrlError(
        f"has no adapter for {language!r}; there are those of "
        f"{first_of(there, 'more', at_most=20)}",
        where=folder,
        hint=did_you_mean(language, there, otherwise="pass one of these languages"),
    )


def _languages(path: Path) -> list[str]:
    """The languages whose characters a vocab.json has, if it has several."""
    return _nested(read_json(path)) if path.is_file() else []


def _nested(vocabulary: Mapping[str, Any]) -> list[str]:
    return [name for name, ids in vocabulary.items() if isinstance(ids, Mapping)]


def _is_of_a_language(key: str) -> bool:
    return ".adapter_layer." in key or key.startswith(OUTPUT)


def _set(path: Path, **fields: Any) -> None:
    contents = json.dumps({**read_json(path), **fields}, indent=2, ensure_ascii=False)
    path.write_text(contents + "\n", encoding="utf-8")
