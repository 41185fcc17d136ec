"""Ways of embedding a text that sentence-transformers' files tell, and those that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from published import edit_json
from sentence_folders import OTHER_END

VARIANTS: dict[str, dict[str, Any]] = {
    "as Qwen3-Embedding": {},
    "mean": {"pooling": "mean"},
    "cls": {"pooling": "cls"},
    "another end token": {"suffix": OTHER_END},
    "nothing appended": {"suffix": None},
    "a token in front": {"prefix": OTHER_END, "pooling": "cls"},
    "default prompt": {"prompts": {"document": "mil : "}, "default_prompt_name": "document"},
    "dense": {"dense": 12},
    "dense with tanh": {"dense": 12, "activation": "Tanh", "pooling": "mean"},
    "bidirectional": {"is_causal": False, "pooling": "mean"},
    "bidirectional, last token": {"is_causal": False},
}
"""Name: options of `sentence_folder`."""


def _rewrite(path: Path, edit) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(edit(value) or value))


def _modules(change):
    return lambda folder: _rewrite(folder / "modules.json", change)


def _set(file: str, **changes: Any):
    return lambda folder: edit_json(folder / file, **changes)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code of its own": (
        _modules(lambda m: m[1].update(type="own_pooling.Pooling")),
        "modules.json: module 1 is 'own_pooling.Pooling', which is code of its own",
    ),
    "another module": (
        _modules(lambda m: m.insert(2, {**m[1], "type": "sentence_transformers.models.LayerNorm"})),
        "modules.json: lists Transformer, Pooling, LayerNorm, Normalize, expected",
    ),
    "norm before dense": (
        _modules(lambda m: m.append({**m[1], "type": "sentence_transformers.models.Dense"})),
        "modules.json: lists Normalize before another module",
    ),
    "arguments": (
        _modules(lambda m: m[0].update(kwargs=["task"])),
        "modules.json: module 0 has kwargs ['task']",
    ),
    "max pooling": (
        _set("1_Pooling/config.json", pooling_mode="max"),
        "1_Pooling/config.json: pooling_mode is 'max', and max pooling is not supported",
    ),
    "two poolings": (
        _set("1_Pooling/config.json", pooling_mode=["mean", "cls"]),
        "mean+cls pooling is not supported",
    ),
    "old names": (
        lambda folder: (folder / "1_Pooling" / "config.json").write_text(
            '{"word_embedding_dimension": 32, "pooling_mode_max_tokens": true}'
        ),
        "1_Pooling/config.json: pooling_mode_max_tokens is True, and max pooling",
    ),
    "without the prompt": (
        _set("1_Pooling/config.json", pooling_mode="mean", include_prompt=False),
        "1_Pooling/config.json: include_prompt is False, and mean pooling without the prompt",
    ),
    "width": (
        _set("1_Pooling/config.json", embedding_dimension=16),
        "1_Pooling/config.json: embedding_dimension is 16",
    ),
    "lower case": (
        _set("sentence_bert_config.json", do_lower_case=True),
        "sentence_bert_config.json: do_lower_case is True, and lower-casing texts",
    ),
    "another output": (
        _set("sentence_bert_config.json", module_output_name="logits"),
        "sentence_bert_config.json: module_output_name is 'logits'",
    ),
    "loaded with another config": (
        _set("sentence_bert_config.json", config_args={"is_causal": False, "use_cache": False}),
        "sentence_bert_config.json: config_args is {'is_causal': False}, and loading the tower",
    ),
    "loaded with another tokenizer": (
        _set("sentence_bert_config.json", processor_kwargs={"truncation_side": "left"}),
        "sentence_bert_config.json: processor_kwargs is {'truncation_side': 'left'}",
    ),
    "loaded from elsewhere": (
        _set("sentence_bert_config.json", tokenizer_name_or_path="org/other"),
        "sentence_bert_config.json: tokenizer_name_or_path is 'org/other'",
    ),
    "a length for queries": (
        _set("sentence_bert_config.json", query_length=8),
        "sentence_bert_config.json: query_length is 8, and a length of its own for queries",
    ),
    "an unknown field": (
        _set("sentence_bert_config.json", new_option=2),
        "sentence_bert_config.json: new_option is 2, and this field, which is not known here,",
    ),
    "an unknown field of the pooling": (
        _set("1_Pooling/config.json", layers=[-2]),
        "1_Pooling/config.json: layers is [-2], and this field, which is not known here,",
    ),
    "an unknown field of a layer": (
        _set("2_Dense/config.json", dropout=0.1),
        "2_Dense/config.json: dropout is 0.1, and this field, which is not known here,",
    ),
    "activation": (
        _set("2_Dense/config.json", activation_function="torch.nn.Softmax"),
        "2_Dense/config.json: activation_function is 'torch.nn.Softmax'",
    ),
    "residual": (
        _set("2_Dense/config.json", use_residual=True),
        "2_Dense/config.json: use_residual is True",
    ),
    "no weights of dense": (
        lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(),
        "2_Dense: has no weights",
    ),
    "a special token that tokenizer.json lacks": (
        _set("tokenizer_config.json", extra_special_tokens=["le mil"]),
        "tokenizer_config.json: names the token 'le mil', which tokenizer.json does not have",
    ),
    "an added token that tokenizer.json lacks": (
        _set("tokenizer_config.json", added_tokens_decoder={"50": {"content": "<x>"}}),
        "tokenizer_config.json: names the token '<x>', which tokenizer.json does not have",
    ),
    "a token in a file of its own": (
        lambda folder: (folder / "added_tokens.json").write_text('{"<x>": 50, "mil": 11}'),
        "added_tokens.json: names the token '<x>', which tokenizer.json does not have",
    ),
    "an unknown prompt": (
        _set("config_sentence_transformers.json", default_prompt_name="nix"),
        "default_prompt_name is 'nix', and prompts has no such name",
    ),
    "bidirectional by another name": (
        _set("config.json", use_bidirectional_attention=True),
        "config.json: use_bidirectional_attention is True",
    ),
}
"""Name: a change of the folder (one with a Dense layer where its words name 2_Dense), and words."""
