"""Rule tables: one rule a name, the same table read both ways, every problem in one message."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import tiny_towers
from hypothesis import given
from hypothesis import strategies as st
from published import HUBERT_LARGE, torch_hubert, torch_qwen3

from converters import hubert, qwen3
from converters.rules import UNUSED, Layout, Plan, RuleTable, plan, published_names
from mrl_jax.core.errors import MrlError
from mrl_jax.models.ctc import abstract_hubert_ctc
from mrl_jax.models.hubert import abstract_hubert
from mrl_jax.models.qwen3 import abstract_qwen3
from mrl_jax.nn import param_tree

Shapes = dict[str, tuple[int, ...]]

# Two digits, so that layer 1 and layer 11 must not be confused.
QWEN3 = dataclasses.replace(tiny_towers.QWEN3, num_layers=12)
BASE = tiny_towers.HUBERT
axes = st.lists(st.integers(0, 4), min_size=3, max_size=3).map(tuple)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@given(axes, st.sampled_from(list(Layout)))
def test_a_layout_is_undone_by_its_inverse(shape, layout):
    if layout is Layout.ROW:
        shape = (1, shape[0])
    whole = layout in (Layout.AS_IS, Layout.ROW)
    tensor = numbered(shape if whole else shape[: len(layout.value)])
    there = layout.forward(tensor)
    np.testing.assert_array_equal(layout.inverse(there), tensor, strict=True)
    np.testing.assert_array_equal(layout.forward(layout.inverse(tensor)), tensor, strict=True)
    assert there.shape == layout.forward_shape(tensor.shape)
    assert tensor.shape == layout.inverse_shape(there.shape)


def test_layouts_move_axes():
    # Distinct sizes: a layout that did nothing would pass the round trip above.
    assert Layout.AS_IS.forward(numbered((2, 3))).shape == (2, 3)
    assert Layout.LINEAR.forward(numbered((2, 3))).shape == (3, 2)
    assert Layout.CONV.forward(numbered((2, 3, 5))).shape == (5, 3, 2)
    assert Layout.ROW.forward(numbered((1, 3))).tolist() == [0, 1, 2]
    assert Layout.CONV.forward(numbered((2, 3, 5)))[4, 1, 0] == numbered((2, 3, 5))[0, 1, 4]


@pytest.mark.parametrize("layout", [Layout.LINEAR, Layout.CONV])
def test_a_wrong_number_of_axes_has_no_layout(layout):
    assert layout.forward_shape((2,) * len(layout.value)) is not None
    assert layout.forward_shape((2,) * (len(layout.value) + 1)) is None


def test_a_row_is_one_row():
    assert Layout.ROW.forward_shape((1, 5)) == (5,)
    assert Layout.ROW.forward_shape((2, 5)) is None
    assert Layout.ROW.forward_shape((5,)) is None


def spelled_the_old_way(names: Mapping[str, object]) -> list[str]:
    return [
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        )
        for name in names
    ]


def published_keys() -> dict[str, tuple[RuleTable, list[str]]]:
    """The names that transformers gives to every kind of checkpoint."""
    qwen3_models = {
        "flat": torch_qwen3(),
        "tied language model": torch_qwen3(causal_lm=True),
        "untied language model": torch_qwen3(causal_lm=True, tie_word_embeddings=False),
    }
    hubert_models = {
        "base": torch_hubert(),
        "large": torch_hubert(**HUBERT_LARGE),
        "base recogniser": torch_hubert(ctc=True),
        "large recogniser": torch_hubert(ctc=True, **HUBERT_LARGE),
        "base without masking": torch_hubert(mask_time_prob=0.0),
        "base without the projection's norm": torch_hubert(feat_proj_layer_norm=False),
    }
    keys = {name: (qwen3.TABLE, list(m.state_dict())) for name, m in qwen3_models.items()}
    keys |= {name: (hubert.TABLE, list(m.state_dict())) for name, m in hubert_models.items()}
    keys["old weight-norm names"] = (
        hubert.TABLE,
        spelled_the_old_way(hubert_models["base"].state_dict()),
    )
    return keys


def test_every_published_name_fits_exactly_one_rule():
    for kind, (table, keys) in published_keys().items():
        assert len(keys) > 20, kind
        for key in keys:
            assert len(table.match(key)) == 1, f"{kind}: {key}"


def test_old_and_new_weight_norm_names_differ_and_lead_to_the_same_place():
    new = [k for k in torch_hubert().state_dict() if "original" in k]
    old = spelled_the_old_way(dict.fromkeys(new))
    assert len(new) == 2
    assert not set(old) & set(new)
    for a, b in zip(old, new, strict=True):
        assert hubert.TABLE.match(a)[0][0].target == hubert.TABLE.match(b)[0][0].target


@pytest.mark.parametrize(
    "key",
    [
        "layers.0.self_attn.q_proj.bias",
        "layers.00.input_layernorm.weight",  # Another spelling of a number is another name.
        "layers.-1.input_layernorm.weight",
        "layers.x.input_layernorm.weight",
        "model.model.norm.weight",
        "model.lm_head.weight",
        "norm.weight.extra",
        "xnorm.weight",
        "norm_weight",  # The dot of a rule is a dot, not any character.
    ],
)
def test_near_misses_fit_no_rule(key):
    assert qwen3.TABLE.match(key) == []


def shapes_of(module) -> Shapes:
    return {path: leaf.shape for path, leaf in param_tree.flat_weights(module).items()}


def qwen3_leaves() -> Shapes:
    return {f"encoder.{path}": s for path, s in shapes_of(abstract_qwen3(QWEN3)).items()}


def base_leaves() -> Shapes:
    return {f"encoder.{path}": s for path, s in shapes_of(abstract_hubert(BASE)).items()}


def published_shapes(table: RuleTable, leaves: Shapes, **naming: object) -> Shapes:
    """What a checkpoint of these leaves holds."""
    names = published_names(table, leaves, {"prefix": "", "spellings": [], **naming})
    return {
        item.key: item.layout.inverse_shape(leaves[item.path][item.layer is not None :])
        for item in names
    }


@pytest.mark.parametrize("prefix", ["", "model."])
def test_qwen3_names_are_the_inverse_of_matching(prefix):
    leaves = qwen3_leaves()
    tensors = published_shapes(qwen3.TABLE, leaves, prefix=prefix)
    assert len(tensors) == 2 + 11 * QWEN3.num_layers
    proven = plan(qwen3.TABLE, tensors, leaves, where="here")
    assert proven.naming == {"prefix": prefix, "spellings": []}
    back = published_names(qwen3.TABLE, proven.shapes, proven.naming)
    assert {(a.key, a.path, a.layer) for a in back} == {
        (a.key, a.path, a.layer) for a in proven.assignments
    }
    other = published_names(qwen3.TABLE, proven.shapes, {**proven.naming, "prefix": "other."})
    assert {a.key for a in other}.isdisjoint(tensors)


@pytest.mark.parametrize("spelling", ["weight_g", "parametrizations"])
@pytest.mark.parametrize("ctc", [False, True])
def test_hubert_names_are_the_inverse_of_matching(spelling, ctc):
    leaves = shapes_of(abstract_hubert_ctc(BASE, 13)) if ctc else base_leaves()
    leaves |= {f"{UNUSED}.masked_spec_embed": (32,)}
    prefix = "hubert." if ctc else ""
    tensors = published_shapes(hubert.TABLE, leaves, prefix=prefix, spellings=[spelling])
    assert any(spelling in key for key in tensors)
    assert ("lm_head.bias" in tensors) == ctc
    del leaves[f"{UNUSED}.masked_spec_embed"]
    proven = plan(hubert.TABLE, tensors, leaves, where="here")
    assert proven.naming == {"prefix": prefix, "spellings": [spelling]}
    assert f"{UNUSED}.masked_spec_embed" in proven.shapes
    back = published_names(hubert.TABLE, proven.shapes, proven.naming)
    assert {a.key for a in back} == set(tensors)


def test_a_plan_fills_every_place_once():
    leaves = qwen3_leaves()
    proven = plan(qwen3.TABLE, published_shapes(qwen3.TABLE, leaves), leaves, where="here")
    places = [(a.path, a.layer) for a in proven.assignments]
    assert len(places) == len(set(places))
    for path, shape in leaves.items():
        layers = sorted(layer for place, layer in places if place == path and layer is not None)
        assert layers == (list(range(shape[0])) if ".layers." in path else [])


def test_names_without_a_rule_are_a_mistake_in_the_table():
    with pytest.raises(ValueError, match=r"encoder\.rotary"):
        published_names(qwen3.TABLE, {"encoder.rotary": (3,)}, {"prefix": "", "spellings": []})


def planned(tensors: Shapes) -> Plan:
    return plan(qwen3.TABLE, tensors, qwen3_leaves(), where="folder")


def message(tensors: Shapes) -> str:
    with pytest.raises(MrlError) as error:
        planned(tensors)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("folder: ")
    assert str(error.value).endswith("no file was left out")
    return str(error.value)


@pytest.fixture
def tensors() -> Shapes:
    shapes = published_shapes(qwen3.TABLE, qwen3_leaves())
    assert planned(shapes).shapes == qwen3_leaves()  # Whole: what each test breaks was sound.
    return shapes


def test_an_unknown_tensor_is_refused(tensors):
    tensors["score.weight"] = (2, 32)
    assert "1 problem with the tensors: unknown: score.weight." in message(tensors)


def test_a_missing_tensor_is_refused(tensors):
    del tensors["layers.11.mlp.up_proj.weight"]
    assert "1 problem with the tensors: missing: layers.11.mlp.up_proj.weight." in message(tensors)


def test_a_tensor_under_two_names_is_refused(tensors):
    tensors["model.norm.weight"] = tensors["norm.weight"]
    line = message(tensors)
    assert "duplicate: model.norm.weight beside norm.weight" in line
    assert "missing" not in line


def test_a_misshapen_tensor_is_named_in_the_published_layout(tensors):
    # (out, in) as the user's own file has it, not our transposed kernel.
    tensors["layers.0.mlp.up_proj.weight"] = (32, 48)
    assert "layers.0.mlp.up_proj.weight is (32, 48), expected (48, 32)" in message(tensors)
    tensors["layers.0.mlp.up_proj.weight"] = (48 * 32,)
    assert "layers.0.mlp.up_proj.weight is (1536,), expected (48, 32)" in message(tensors)


def test_a_layer_beyond_the_config_is_refused(tensors):
    tensors["layers.12.input_layernorm.weight"] = (32,)
    assert "1 problem with the tensors: unknown: layers.12.input_layernorm.weight." in message(
        tensors
    )


def test_a_leaf_that_the_config_switches_off_is_refused():
    # The base variant has no norm after its second convolution, though large has.
    leaves = base_leaves()
    tensors = published_shapes(hubert.TABLE, leaves, spellings=["weight_g"])
    tensors["feature_extractor.conv_layers.1.layer_norm.weight"] = (16,)
    with pytest.raises(MrlError, match=r"unknown: feature_extractor\.conv_layers\.1\.layer_norm"):
        plan(hubert.TABLE, tensors, leaves, where="folder")


def test_mixed_prefixes_are_refused(tensors):
    tensors["model.norm.weight"] = tensors.pop("norm.weight")
    assert "mixed prefixes: 1 of 134 names start with 'model.'" in message(tensors)


def test_both_spellings_of_a_weight_norm_are_refused():
    leaves = base_leaves()
    tensors = published_shapes(hubert.TABLE, leaves, spellings=["weight_g"])
    tensors |= published_shapes(hubert.TABLE, leaves, spellings=["parametrizations"])
    with pytest.raises(MrlError, match=r"2 problems.*duplicate: .*original0 beside .*weight_g"):
        plan(hubert.TABLE, tensors, leaves, where="folder")


def test_all_problems_are_named_in_one_line(tensors):
    tensors["score.weight"] = (2, 32)
    tensors["model.norm.weight"] = tensors["norm.weight"]
    tensors["embed_tokens.weight"] = (100, 32)
    del tensors["layers.3.self_attn.k_norm.weight"]
    line = message(tensors)
    assert "4 problems with the tensors" in line
    for word in (
        "unknown: score",
        "duplicate: model.norm",
        "misshapen: embed",
        "missing: layers.3",
    ):
        assert word in line


def test_names_that_differ_in_their_numbers_are_counted_together(tensors):
    for layer in range(QWEN3.num_layers):
        del tensors[f"layers.{layer}.mlp.up_proj.weight"]
    line = message(tensors)
    assert "12 problems" in line
    assert "missing: layers.0.mlp.up_proj.weight and 11 like it" in line
    assert "layers.1.mlp" not in line


def test_a_checkpoint_of_something_else_is_still_one_readable_line(tensors):
    line = message({f"block.{i}.{name}": (3,) for i in range(200) for name in "abcdefghij"})
    assert "2134 problems" in line
    assert "block.0.a and 199 like it" in line
    assert "and 4 other kinds" in line
    assert len(line) < 1500
