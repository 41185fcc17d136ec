"""Every family and variant of a checkpoint that is tried: made on the spot, for one command.

docs/tools/checkpoint_table.py converts and verifies each, and writes docs/checkpoints.md.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adapter_cases
import numpy as np
import oolel_cases
import sentence_cases
import speech_families
import tiny_checkpoints
from ctc_tokenizers import DECODERS, write_ctc_tokenizer
from format_cases import FORMATS, QUANTISED, QUANTISED_TENSORS, old_layout
from published import HUBERT_LARGE, edit_json, save, torch_hubert, torch_qwen3
from safetensors.numpy import load_file, save_file
from sentence_folders import OTHER_END, sentence_folder, write_tokenizer
from tiny_adapter import save_adapter


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of checkpoint.

    Attributes:
        group: heading of its table.
        name: what is tried.
        command: of `mrl-jax convert`.
        make: writes the checkpoint into a folder of its own and gives the words behind the
            command: the source, then options of the conversion.
    """

    group: str
    name: str
    command: str
    make: Callable[[Path], list[Any]]


def all_rows() -> list[Row]:
    """All that need no data beside the checkout."""
    groups = (
        _families,
        _languages,
        _clips,
        _words,
        _texts,
        _text_weights,
        _refused_texts,
        _adapters,
        _refused_adapters,
        _configs,
        _layouts,
        _formats,
    )
    return [row for group in groups for row in group()]


def published_rows() -> Iterator[Row]:
    """Changes of the published folder, which lies beside the checkout."""

    def make(folder: Path, change: Callable[[Path], Any]) -> list[Any]:
        source = shutil.copytree(oolel_cases.PUBLISHED / "lf", folder / "source")
        change(source)
        return [source]

    for name, (change, _) in oolel_cases.REFUSED.items():
        yield _row("The published speech model", name, "oolel-embed", make, change)


def _row(group: str, name: str, command: str, make: Callable[..., list[Any]], *args: Any) -> Row:
    return Row(group, name, command, lambda folder: make(folder, *args))


def _families() -> Iterator[Row]:
    def make(folder: Path, name: str) -> list[Any]:
        speech_families.make_checkpoint(name, folder / "source")
        return [folder / "source"]

    def hubert(folder: Path, ctc: bool, sizes: dict[str, Any]) -> list[Any]:
        return [save(torch_hubert(ctc=ctc, **sizes), folder / "source")]

    group = "Speech towers"
    yield _row(group, "hubert-base", "speech", hubert, False, {})
    yield _row(group, "hubert-large", "speech", hubert, False, HUBERT_LARGE)
    yield _row(group, "hubert-large ctc", "speech", hubert, True, HUBERT_LARGE)
    for name in speech_families.CASES:
        yield _row(group, name, "speech", make, name)
    for dtype in ("bfloat16", "float16"):
        yield _row(
            group,
            f"wavlm-base as {dtype}",
            "speech",
            lambda folder, dtype: [*make(folder, "wavlm-base"), "--dtype", dtype],
            dtype,
        )


def _languages() -> Iterator[Row]:
    def make(folder: Path, *options: str) -> list[Any]:
        return [speech_families.make_mms(folder / "source"), *options]

    group = "Language adapters of MMS"
    yield _row(group, "no language", "speech", make)
    for language in (*speech_families.LANGUAGES, "wolof"):
        yield _row(group, f"--language {language}", "speech", make, "--language", language)


def _clips() -> Iterator[Row]:
    def make(folder: Path, file: str, **changes: Any) -> list[Any]:
        source = save(torch_hubert(**HUBERT_LARGE), folder / "source")
        if file == "processor_config.json":
            kind = "Wav2Vec2FeatureExtractor"
            extractor = {"feature_extractor_type": kind, "sampling_rate": 16_000, **changes}
            (source / file).write_text(json.dumps({"feature_extractor": extractor}))
        else:
            edit_json(source / file, **changes)
        return [source]

    def bare(folder: Path) -> list[Any]:
        (source,) = make(folder, "preprocessor_config.json")
        (source / "preprocessor_config.json").unlink()
        return [source]

    group, old = "How clips are read", "preprocessor_config.json"
    new = "processor_config.json"
    for name, file, changes in (
        ("do_normalize true", old, {}),
        ("do_normalize false", old, {"do_normalize": False}),
        ("do_normalize null", old, {"do_normalize": None}),
        ("two files that disagree", new, {"do_normalize": False}),
        ("another extractor", old, {"feature_extractor_type": "WhisperFeatureExtractor"}),
        ("80 features a frame", old, {"feature_size": 80}),
        ("a sampling rate of text", old, {"sampling_rate": "16000"}),
    ):
        row = _row(group, name, "speech", make, file)
        yield dataclasses.replace(row, make=_with(make, file, changes))
    yield _row(group, "no file", "speech", bare)


def _with(make: Callable[..., list[Any]], word: Any, changes: dict[str, Any]) -> Any:
    return lambda folder: make(folder, word, **changes)


def _words() -> Iterator[Row]:
    def make(folder: Path, name: str) -> list[Any]:
        source = save(torch_hubert(ctc=True, num_hidden_layers=2), folder / "source")
        write_ctc_tokenizer(source, name)
        return [source]

    def other_class(folder: Path) -> list[Any]:
        (source,) = make(folder, "plain")
        edit_json(source / "tokenizer_config.json", tokenizer_class="WhisperTokenizer")
        return [source]

    group = "Words of recognisers"
    for name in DECODERS:
        yield _row(group, name, "speech", make, name)
    yield _row(group, "a tokenizer of another class", "speech", other_class)


def _texts() -> Iterator[Row]:
    def make(folder: Path, options: dict[str, Any], *more: str) -> list[Any]:
        return [sentence_folder(folder / "source", **options), *more]

    group = "How texts are embedded"
    for name, options in sentence_cases.VARIANTS.items():
        yield _row(group, name, "qwen3", make, options)
    yield _row(group, "not normalised", "qwen3", make, {"normalize": False, "pooling": "mean"})
    prompts = {"query": "le mil : ", "document": "a "}
    yield _row(group, "prompts of queries and documents", "qwen3", make, {"prompts": prompts})
    yield _row(group, "dense as bfloat16", "qwen3", make, {"dense": 12}, "--dtype", "bfloat16")


def _text_weights() -> Iterator[Row]:
    def make(folder: Path, options: dict[str, Any], saved: dict[str, Any]) -> list[Any]:
        return [save(torch_qwen3(**options), folder / "source", **saved)]

    def with_tokenizer(folder: Path, suffix: str | None) -> list[Any]:
        (source,) = make(folder, {}, {})
        write_tokenizer(source, suffix=suffix)
        return [source]

    def pickled(folder: Path) -> list[Any]:
        import torch

        (source,) = make(folder, {}, {})
        tensors = load_file(source / "model.safetensors")
        torch.save(
            {key: torch.from_numpy(value) for key, value in tensors.items()},
            source / "pytorch_model.bin",
        )
        (source / "model.safetensors").unlink()
        return [source]

    group = "Text towers without sentence-transformers' files"
    for name, options, saved in (
        ("Qwen3Model", {}, {}),
        ("Qwen3ForCausalLM", {"causal_lm": True}, {}),
        ("untied output layer", {"causal_lm": True, "tie_word_embeddings": False}, {}),
        ("in shards", {}, {"max_shard_size": "20KB"}),
    ):
        yield _row(group, name, "qwen3", make, options, saved)
    yield _row(group, "a pickled file", "qwen3", pickled)
    yield _row(group, "a tokenizer that adds nothing", "qwen3", with_tokenizer, None)
    yield _row(group, "a tokenizer with an end token", "qwen3", with_tokenizer, OTHER_END)


def _refused_texts() -> Iterator[Row]:
    def make(folder: Path, change: Callable[[Path], Any], dense: bool) -> list[Any]:
        options: dict[str, Any] = {"dense": 12} if dense else {"pooling": "mean"}
        source = sentence_folder(folder / "source", **options)
        change(source)
        return [source]

    for name, (change, words) in sentence_cases.REFUSED.items():
        yield _row("Files that change vectors", name, "qwen3", make, change, "2_Dense" in words)


def _base(folder: Path, *, config: dict[str, Any] | None = None) -> Path:
    return tiny_checkpoints.make_checkpoint("qwen3", folder / "tiny", **(config or {}))


def _adapters() -> Iterator[Row]:
    def make(folder: Path, options: dict[str, Any]) -> list[Any]:
        adapter = save_adapter(folder / "adapter", **options)
        return [_base(folder), "--adapter", adapter]

    def sentences(folder: Path) -> list[Any]:
        source = sentence_folder(folder / "tiny", pooling="mean", dense=12)
        return [source, "--adapter", save_adapter(folder / "adapter")]

    for name, (options, _) in adapter_cases.MERGED.items():
        yield _row("LoRA adapters", name, "qwen3", make, options)
    yield _row("LoRA adapters", "beside pooling and a Dense layer", "qwen3", sentences)


def _refused_adapters() -> Iterator[Row]:
    def changed(folder: Path, change: Callable[[Path], Any]) -> list[Any]:
        adapter = save_adapter(folder / "adapter")
        change(adapter)
        return [_base(folder), "--adapter", adapter]

    def fields(changes: dict[str, Any]) -> Callable[[Path], None]:
        return lambda adapter: edit_json(adapter / "adapter_config.json", **changes)

    def alone(folder: Path) -> list[Any]:
        return [save_adapter(folder / "adapter")]

    def beside(folder: Path) -> list[Any]:
        base = _base(folder)
        save_adapter(base)
        return [base]

    def wide(folder: Path) -> list[Any]:
        base = _base(folder, config={"num_attention_heads": 8})
        return [base, "--adapter", save_adapter(folder / "adapter")]

    group = "LoRA adapters that are refused"
    for name, (changes, _) in adapter_cases.FIELDS.items():
        yield _row(group, name, "qwen3", changed, fields(changes))
    for name, (change, _) in adapter_cases.FILES.items():
        yield _row(group, name, "qwen3", changed, change)
    yield _row(group, "an adapter alone", "qwen3", alone)
    yield _row(group, "an adapter beside its base, not named", "qwen3", beside)
    yield _row(group, "an adapter of a base of other sizes", "qwen3", wide)


def _configs() -> Iterator[Row]:
    def make(folder: Path, name: str, changes: dict[str, Any]) -> list[Any]:
        if name == "qwen3":
            source = save(torch_qwen3(), folder / "source")
        else:
            speech_families.make_checkpoint(name, source := folder / "source")
        edit_json(source / "config.json", **changes)
        return [source]

    def tensors(folder: Path, change: Callable[[dict[str, Any]], Any], **options: Any) -> list[Any]:
        source = save(torch_qwen3(**options), folder / "source")
        changed = change(load_file(source / "model.safetensors"))
        save_file(changed, source / "model.safetensors", metadata={"format": "pt"})
        return [source]

    def only_head(weights: dict[str, Any]) -> dict[str, Any]:
        table = weights.pop("model.embed_tokens.weight")
        return {**weights, "lm_head.weight": table}

    group = "Classes, config fields and dtypes"
    code = {"auto_map": {"AutoModel": "modeling.Own"}}
    for name in ("qwen3", "contentvec", "xls-r pre-trained", "unispeech-sat-base", "wavlm-large"):
        own = {"architectures": ["OwnModel"]}
        command = "qwen3" if name == "qwen3" else "speech"
        yield _row(group, f"{name}, a class of its own", command, make, name, own)
        yield _row(group, f"{name}, code of its own", command, make, name, code)
    unread: dict[str, Any] = {"residual_scale": 0.5}
    yield _row(group, "qwen3, a field that nothing reads", "qwen3", make, "qwen3", unread)
    for name, changes in (
        ("wav2vec2-base", {"add_adapter": True}),
        ("wavlm-base", {"num_buckets": 2}),
        ("mms-1b-all", {"adapter_attn_dim": 16}),
        ("mhubert-147", {"conv_pos_batch_norm": False}),
        ("wav2vec2-base", {"model_type": "data2vec-audio"}),
        ("wav2vec2-base", {"model_type": "wav2vec2-conformer"}),
    ):
        ((field, value),) = changes.items()
        yield _row(group, f"{name}, {field} {value}", "speech", make, name, changes)
    doubles = lambda weights: {k: v.astype(np.float64) for k, v in weights.items()}  # noqa: E731
    whole = lambda weights: {k: v.astype(np.int32) for k, v in weights.items()}  # noqa: E731
    yield _row(group, "qwen3 in float64", "qwen3", tensors, doubles)
    yield _row(group, "qwen3 in int32", "qwen3", tensors, whole)
    row = _row(group, "qwen3, an output layer and no embeddings", "qwen3", tensors, only_head)
    yield dataclasses.replace(row, make=lambda folder: tensors(folder, only_head, causal_lm=True))


def _layouts() -> Iterator[Row]:
    def make(folder: Path, *options: str) -> list[Any]:
        return [old_layout(_base(folder), folder / "source"), *options]

    def inner(folder: Path) -> list[Any]:
        return [make(folder)[0] / "0_Transformer"]

    def pointer(folder: Path) -> list[Any]:
        base = _base(folder)
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
        (base / "model.safetensors").write_text(text)
        return [base]

    group = "Layouts"
    yield _row(group, "0_Transformer", "qwen3", make)
    yield _row(group, "--subfolder 0_Transformer", "qwen3", make, "--subfolder", "0_Transformer")
    yield _row(group, "the folder 0_Transformer itself", "qwen3", inner)
    yield _row(group, "--subfolder text", "qwen3", make, "--subfolder", "text")
    yield _row(group, "a pointer of Git LFS", "qwen3", pointer)
    file = "model.safetensors"
    yield _row(group, "a weight file alone", "qwen3", lambda folder: [_base(folder) / file])


def _formats() -> Iterator[Row]:
    def files(folder: Path, names: list[str]) -> list[Any]:
        for name in names:
            path = folder / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return [folder / "source"]

    def quantised(folder: Path, changes: dict[str, Any]) -> list[Any]:
        base = _base(folder)
        edit_json(base / "config.json", _name_or_path="Qwen/Qwen3-Embedding-4B", **changes)
        return [base]

    def packed(folder: Path, key: str, dtype: Any) -> list[Any]:
        base = _base(folder)
        tensors = load_file(base / "model.safetensors") | {key: np.ones(3, dtype)}
        save_file(tensors, base / "model.safetensors")
        return [base]

    group = "Formats and quantised weights"
    for names, _ in FORMATS:
        yield _row(group, f"`{names[0]}`", "qwen3", files, names)
    for changes, _ in QUANTISED:
        yield _row(group, f"`{json.dumps(changes)}`", "qwen3", quantised, changes)
    for key, dtype, _ in QUANTISED_TENSORS:
        yield _row(group, f"`{key}` of {np.dtype(dtype)}", "qwen3", packed, key, dtype)
