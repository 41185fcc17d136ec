"""HuBERT checkpoints and their kin, plain and CTC: config, vocabulary and tensor names."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.core.records import as_record, readable_as
from mrl_jax.data.text.text_recipe import read_tokenizer_options
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.towers import TOWERS
from mrl_jax.nn import param_tree

from .checkpoints import Checkpoint, damaged, read_json
from .config_fields import Fields
from .ctc_text import text_options, token_text
from .families import Description, Family, encoder_leaves
from .harmless_fields import SPEECH_HARMLESS
from .language_adapters import one_language
from .preprocessor import preprocessor_notes, read_preprocessor
from .rules import UNUSED, Layout, Rule, RuleTable
from .speech_heads import UNUSED_HEADS

_BLOCK = "feature_extractor.conv_layers.{block}."
_OUR_BLOCK = "feature_encoder.blocks.{block}."
_LAYER = "encoder.layers.{layer}."
_POSITION = "encoder.pos_conv_embed.conv."
_BATCH_NORM = "encoder.pos_conv_embed.batch_norm"


def _linear(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{source}.weight", f"encoder.{target}.kernel", Layout.LINEAR),
        Rule(f"{source}.bias", f"encoder.{target}.bias"),
    )


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{source}.weight", f"encoder.{target}.scale"),
        Rule(f"{source}.bias", f"encoder.{target}.bias"),
    )


RULES = (
    Rule(f"{_BLOCK}conv.weight", f"encoder.{_OUR_BLOCK}conv.kernel", Layout.CONV),
    Rule(f"{_BLOCK}conv.bias", f"encoder.{_OUR_BLOCK}conv.bias"),
    *_norm(f"{_BLOCK}layer_norm", f"{_OUR_BLOCK}norm"),
    *_norm("feature_projection.layer_norm", "projection_norm"),
    *_linear("feature_projection.projection", "projection"),
    # Where batch norm takes the place of the weight norm.
    Rule(f"{_POSITION}weight", "encoder.position_conv.kernel", Layout.CONV),
    *_norm(_BATCH_NORM, "position_norm"),
    Rule(f"{_BATCH_NORM}.running_mean", "encoder.position_norm.mean"),
    Rule(f"{_BATCH_NORM}.running_var", "encoder.position_norm.variance"),
    Rule(f"{_BATCH_NORM}.num_batches_tracked", f"{UNUSED}.position_norm.num_batches_tracked"),
    # torch renamed the two factors of a weight norm; both spellings are in use.
    *(
        Rule(_POSITION + name, f"encoder.position_conv.{part}", Layout.CONV, spelling=spelling)
        for spelling, name, part in (
            ("weight_g", "weight_g", "magnitude"),
            ("weight_g", "weight_v", "direction"),
            ("parametrizations", "parametrizations.weight.original0", "magnitude"),
            ("parametrizations", "parametrizations.weight.original1", "direction"),
        )
    ),
    Rule(f"{_POSITION}bias", "encoder.position_conv.bias"),
    *_norm("encoder.layer_norm", "encoder_norm"),
    *_linear(f"{_LAYER}attention.q_proj", "layers.attention.q_proj"),
    *_linear(f"{_LAYER}attention.k_proj", "layers.attention.k_proj"),
    *_linear(f"{_LAYER}attention.v_proj", "layers.attention.v_proj"),
    *_linear(f"{_LAYER}attention.out_proj", "layers.attention.out_proj"),
    *_norm(f"{_LAYER}layer_norm", "layers.attention_norm"),
    *_linear(f"{_LAYER}feed_forward.intermediate_dense", "layers.feed_forward.up"),
    *_linear(f"{_LAYER}feed_forward.output_dense", "layers.feed_forward.down"),
    *_norm(f"{_LAYER}final_layer_norm", "layers.feed_forward_norm"),
    *_norm(f"{_LAYER}adapter_layer.norm", "layers.adapter.norm"),
    *_linear(f"{_LAYER}adapter_layer.linear_1", "layers.adapter.down"),
    *_linear(f"{_LAYER}adapter_layer.linear_2", "layers.adapter.up"),
    Rule("lm_head.weight", "lm_head.kernel", Layout.LINEAR, prefixed=False),
    Rule("lm_head.bias", "lm_head.bias", prefixed=False),
    # Replaces masked frames in pre-training; a frozen tower masks nothing.
    Rule("masked_spec_embed", f"{UNUSED}.masked_spec_embed"),
    *UNUSED_HEADS,
)
"""Of every family whose encoder is HuBERT's."""
TABLE = RuleTable(prefix="hubert.", rules=RULES)
CTC_KEY = "lm_head.weight"
TASKS = (
    "PreTraining",
    "SequenceClassification",
    "AudioFrameClassification",
    "XVector",
    "SpeechClassification",
)
"""Of classes that are a family's encoder and a head which `UNUSED_HEADS` keeps."""


def parse_config(
    raw: Mapping[str, Any],
    *,
    where: object,
    preprocessor: tuple[Path, Mapping[str, Any]] | None = None,
    model_type: str = "hubert",
) -> HubertConfig:
    """Sizes and variants from config.json and, if there is one, the feature extractor's file.

    Fields that only HuBERT's own class reads are read for that `model_type` alone.

    Raises:
        MrlError: another model type, a missing field, or an option not supported.
    """
    fields = Fields(raw, where)
    require_model_type(fields, model_type)
    fields.require("hidden_act", "gelu", default="gelu")
    fields.require("feat_extract_activation", "gelu", default="gelu")
    fields.refuse("add_adapter", "a convolutional adapter behind the layers")
    fields.refuse("quantization_config", "quantised weights")
    own, pre_norm = model_type == "hubert", fields.flag("do_stable_layer_norm", False)
    batch_norm = own and fields.flag("conv_pos_batch_norm", False)
    # transformers has adapters in pre-norm layers only, whatever the field says.
    adapters = pre_norm and model_type != "wavlm" and raw.get("adapter_attn_dim") is not None
    audio = Fields(preprocessor[1], preprocessor[0]) if preprocessor else Fields({}, where)
    return fields.build(
        HubertConfig,
        width=fields.integer("hidden_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=fields.integer("num_attention_heads"),
        mlp_width=fields.integer("intermediate_size"),
        norm_epsilon=fields.number("layer_norm_eps", 1e-5),
        conv_channels=fields.integers("conv_dim"),
        conv_kernels=fields.integers("conv_kernel"),
        conv_strides=fields.integers("conv_stride"),
        conv_bias=fields.flag("conv_bias", False),
        feature_norm=fields.choice("feat_extract_norm", ("group", "layer"), default="group"),
        projection_norm=fields.flag("feat_proj_layer_norm", True) if own else True,
        pre_norm=pre_norm,
        position_kernel=fields.integer("num_conv_pos_embeddings"),
        position_groups=fields.integer("num_conv_pos_embedding_groups"),
        position_norm="batch" if batch_norm else "weight",
        adapter_width=fields.integer("adapter_attn_dim") if adapters else None,
        normalize_clips=audio.flag("do_normalize", True),
        sample_rate=audio.integer("sampling_rate", 16_000),
    )


def require_model_type(fields: Fields, model_type: str) -> None:
    """Refuse a config of another family, with the command that finds the family by itself."""
    found = fields.raw.get("model_type")
    if found != model_type:
        raise MrlError(
            f"model_type is {found!r}, and only {model_type!r} is supported here",
            where=fields.where,
            hint="use `mrl-jax convert speech`, which finds the family of a speech checkpoint",
        )


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], size: int, language: str | None = None
) -> CtcVocabulary | None:
    """The recogniser's characters from vocab.json, or None if the folder has none.

    Where the file holds those of several languages, they are the ones of `language`, or of the
    language that the tokenizer names.

    Raises:
        MrlError: the file's ids are not 0 to `size` − 1, each once.
    """
    path = folder / "vocab.json"
    if not path.is_file():
        return None
    options, others = read_tokenizer_options(folder), folder / "added_tokens.json"
    ids = read_json(others) if others.is_file() else {}
    ids = one_language(read_json(path), language or options.get("target_lang"), path) | ids
    added = options.get("added_tokens_decoder")
    for number, token in added.items() if isinstance(added, Mapping) else ():
        ids.setdefault(token_text(token) or "", int(number) if number.isdigit() else number)
    # Tokenizers add tokens that the model was never given an output for.
    ids = {token: n for token, n in ids.items() if type(n) is not int or n < size}
    numbers = [value for value in ids.values() if type(value) is int]
    if not len(numbers) == len(ids) == size or sorted(numbers) != list(range(size)):
        raise MrlError(
            f"has {len(ids)} tokens, expected the ids 0 to {size - 1}, each once: "
            "one for each output of the model",
            where=path,
            hint="take the checkpoint's own vocab.json, or remove it: then the model gives no text",
        )
    # The tokenizer's own padding token is what its decoder drops.
    padding = token_text(options.get("pad_token", "<pad>"))
    blank = ids.get(padding or "", config.get("pad_token_id") or 0)
    if type(blank) is not int or not 0 <= blank < size:
        raise MrlError(
            f"pad_token_id is {blank!r}, expected an id from 0 to {size - 1}: what stands for "
            "the CTC blank where the tokenizer's pad_token is not in vocab.json",
            where=folder / "config.json",
            hint="take the tokenizer's files from the checkpoint's own folder",
        )
    fields = {
        "tokens": sorted(ids, key=lambda token: ids[token]),
        "blank": blank,
        "writes_blank": padding not in ids,
        **text_options(folder, options, config),
        # Of recognisers that this library trained, see `new_towers.recogniser_files`.
        "byte_level": options.get("byte_level", False),
        "text_ids": options.get("text_ids", []),
        "tokenizer_digest": options.get("text_tokenizer_digest", ""),
    }
    hint = "take the tokenizer's files from the checkpoint's own folder"
    with readable_as("a recogniser's vocabulary", folder / "tokenizer_config.json", hint=hint):
        return as_record(fields, CtcVocabulary)


def describe(
    checkpoint: Checkpoint,
    *,
    kind: str = "hubert",
    parse_config: Callable[..., HubertConfig] = parse_config,
) -> Description:
    """What a speech checkpoint is, with or without a CTC output layer.

    Args:
        checkpoint: of the family whose kind of encoder is `kind`.
        parse_config: of that family.

    Raises:
        MrlError: its config or vocabulary is not supported.
    """
    config = parse_config(
        checkpoint.config,
        where=checkpoint.folder / "config.json",
        preprocessor=read_preprocessor(checkpoint.folder),
    )
    notes = preprocessor_notes(checkpoint.folder)
    if CTC_KEY not in checkpoint.tensors:
        return Description(kind, config, encoder_leaves(kind, config), notes=notes)
    output = checkpoint.tensors[CTC_KEY]
    if len(output.shape) != 2:
        raise damaged(
            f"{CTC_KEY} is {output.shape}, expected (tokens, {config.width})", output.file
        )
    vocab_size = output.shape[0]
    recogniser = f"{kind}_ctc"
    abstract = TOWERS[recogniser].abstract_recogniser
    assert abstract is not None
    leaves = param_tree.flat_weights(abstract(config, vocab_size))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    language = checkpoint.language
    vocabulary = read_vocabulary(checkpoint.folder, checkpoint.config, vocab_size, language)
    return Description(recogniser, config, shapes, vocabulary, notes)


def speech_family(
    model_type: str,
    torch_name: str,
    *,
    rules: tuple[Rule, ...] = (),
    read_config: Callable[..., HubertConfig] | None = None,
    architectures: tuple[str, ...] = (),
) -> Family:
    """A family whose encoder is HuBERT's, or HuBERT's and some more.

    Args:
        model_type: what its config.json names.
        torch_name: what the names of transformers' classes begin with.
        rules: of tensors that HuBERT does not have.
        read_config: its `parse_config`; that of this file by default.
        architectures: classes of its checkpoints that are not transformers' own.
    """
    kind = model_type.replace("-", "_")
    read = read_config or functools.partial(parse_config, model_type=model_type)
    return Family(
        model_type=model_type,
        table=RuleTable(prefix=f"{kind}.", rules=RULES + rules),
        parse_config=read,
        describe=functools.partial(describe, kind=kind, parse_config=read),
        torch_classes={kind: f"{torch_name}Model", f"{kind}_ctc": f"{torch_name}ForCTC"},
        architectures=(*(f"{torch_name}For{task}" for task in TASKS), *architectures),
        harmless=SPEECH_HARMLESS,
    )


FAMILY = speech_family(
    "hubert", "Hubert", architectures=("HubertModelWithFinalProj", "HubertMatryoshka")
)
