"""Qwen3 and Qwen3-Embedding checkpoints: their config and their tensor names."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mrl_jax.models.qwen3 import Qwen3Config

from .checkpoints import Checkpoint
from .config_fields import Fields
from .embedding_notes import check_added_tokens, embedding_notes
from .families import Description, Family, encoder_leaves
from .harmless_fields import TEXT_HARMLESS
from .rules import UNUSED, Layout, Rule, RuleTable
from .sentence_files import read_sentence_modules

_LAYER = "layers.{layer}."
_OURS = "encoder.layers."


def _linear(source: str, target: str) -> Rule:
    return Rule(f"{_LAYER}{source}.weight", f"{_OURS}{target}.kernel", Layout.LINEAR)


def _norm(source: str, target: str) -> Rule:
    return Rule(f"{_LAYER}{source}.weight", f"{_OURS}{target}.scale")


TABLE = RuleTable(
    prefix="model.",
    rules=(
        Rule("embed_tokens.weight", "encoder.embed_tokens.embedding"),
        _norm("input_layernorm", "attention_norm"),
        *(_linear(f"self_attn.{x}_proj", f"attention.{x}_proj") for x in "qkvo"),
        *(_norm(f"self_attn.{x}_norm", f"attention.{x}_norm") for x in "qk"),
        _norm("post_attention_layernorm", "mlp_norm"),
        *(_linear(f"mlp.{x}_proj", f"mlp.{x}_proj") for x in ("gate", "up", "down")),
        Rule("norm.weight", "encoder.final_norm.scale"),
        # Behind the pooling; see sentence_files.
        Rule(
            "dense.{block}.linear.weight",
            "encoder.dense.{block}.kernel",
            Layout.LINEAR,
            prefixed=False,
        ),
        Rule("dense.{block}.linear.bias", "encoder.dense.{block}.bias", prefixed=False),
        # An encoder has no use for the output layer of an untied language model.
        Rule("lm_head.weight", f"{UNUSED}.lm_head", prefixed=False),
    ),
)


def parse_config(raw: Mapping[str, Any], *, where: object) -> Qwen3Config:
    """Sizes from a published config.json.

    Raises:
        MrlError: another model type, a missing field, or an option not supported.
    """
    fields = Fields(raw, where)
    fields.require("model_type", "qwen3")
    fields.require("hidden_act", "silu", default="silu")
    fields.refuse("attention_bias", "biases in attention")
    fields.refuse("use_sliding_window", "sliding-window attention")
    fields.refuse("quantization_config", "quantised weights")
    fields.refuse("use_bidirectional_attention", "this switch, which stock Qwen3 does not read,")
    layer_types = raw.get("layer_types") or ()
    if not isinstance(layer_types, list | tuple):
        fields.unsupported("layer_types", layer_types, "anything but a list here")
    for layer_type in layer_types:
        if layer_type != "full_attention":
            fields.unsupported("layer_types", layer_type, "attention other than full_attention")
    return fields.build(
        Qwen3Config,
        rope_theta=_rope(fields),
        vocab_size=fields.integer("vocab_size"),
        width=fields.integer("hidden_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=fields.integer("num_attention_heads"),
        num_kv_heads=fields.integer("num_key_value_heads"),
        head_width=fields.integer("head_dim"),
        mlp_width=fields.integer("intermediate_size"),
        norm_epsilon=fields.number("rms_norm_eps"),
        causal=fields.flag("is_causal", True),
    )


def _rope(fields: Fields) -> float:
    """θ, which transformers 5 writes under rope_parameters and earlier versions beside it."""
    raw = fields.raw
    for name in ("rope_scaling", "rope_parameters"):
        options = raw.get(name)
        if options is None:
            continue
        if not isinstance(options, Mapping):
            fields.unsupported(name, options, "anything but an object here")
        kind = options.get("rope_type", options.get("type", "default"))
        if kind != "default":
            fields.unsupported(name, kind, "scaled rotary embedding")
        if options.get("partial_rotary_factor") not in (None, 1.0):
            fields.unsupported(name, "partial_rotary_factor", "partly rotated heads")
    if raw.get("partial_rotary_factor") not in (None, 1.0):
        factor = raw["partial_rotary_factor"]
        fields.unsupported("partial_rotary_factor", factor, "partial rotation")
    nested = (raw.get("rope_parameters") or {}).get("rope_theta")
    if nested is not None and raw.get("rope_theta") is not None and nested != raw["rope_theta"]:
        fields.unsupported("rope_theta", raw["rope_theta"], f"a second value, {nested}")
    source = fields if nested is None else Fields({"rope_theta": nested}, fields.where)
    return source.number("rope_theta")


def describe(checkpoint: Checkpoint) -> Description:
    """What a Qwen3 checkpoint is.

    Raises:
        MrlError: its config, or how it embeds, is not supported.
    """
    folder = checkpoint.folder
    config = parse_config(checkpoint.config, where=folder / "config.json")
    modules = read_sentence_modules(folder, config.width)
    if modules is not None:
        config = dataclasses.replace(config, pooling=modules.pooling, dense=modules.dense)
    check_added_tokens(folder)
    notes = embedding_notes(folder, modules)
    return Description("qwen3", config, encoder_leaves("qwen3", config), notes=notes)


FAMILY = Family(
    model_type="qwen3",
    table=TABLE,
    parse_config=parse_config,
    describe=describe,
    torch_classes={"qwen3": "Qwen3Model"},
    architectures=("Qwen3ForCausalLM",),
    harmless=TEXT_HARMLESS,
    tied=("lm_head.weight", "embed_tokens.weight"),
)
