"""The schedule, rates by name, what is decayed and averaged, and the temperature's range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_ctc import TINY
from tiny_fusion import TEXT, tiny_model
from tiny_soft import soft_model

from mrl_jax.core.errors import MrlError
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.init import initial_recogniser, initial_tower
from mrl_jax.models.lora import LoraConfig, abstract_lora
from mrl_jax.nn import param_tree
from mrl_jax.training.optim import (
    TEMPERATURE_RANGE,
    OptimConfig,
    averaged_weights,
    decay_mask,
    learning_rate,
    make_optimizer,
)

PARAMS = {
    "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "log_temperature": jnp.log(jnp.float32(0.05)),
}


def rates(steps: int, **options: Any) -> np.ndarray:
    schedule = learning_rate(OptimConfig(learning_rate=1.0, **options), steps)
    return np.asarray([float(np.asarray(schedule(jnp.int32(step)))) for step in range(steps + 1)])


def test_the_schedules():
    linear = rates(20, warmup_fraction=0.2)
    np.testing.assert_allclose(linear[:5], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)
    np.testing.assert_allclose(linear[4:], np.linspace(1, 0, 17), atol=1e-6)
    cosine = rates(20, warmup_fraction=0.2, schedule="cosine")
    np.testing.assert_allclose(cosine[:5], linear[:5], atol=1e-6)
    np.testing.assert_allclose(cosine[4:], (1 + np.cos(np.linspace(0, np.pi, 17))) / 2, atol=1e-6)
    constant = rates(20, warmup_fraction=0.2, schedule="constant")
    np.testing.assert_allclose(constant[4:], 1.0)
    assert rates(20, warmup_fraction=0.0)[0] == 1.0
    assert (rates(3) > 0)[:3].all()  # Every step of a short run counts.


def apply(config: OptimConfig, gradients: Any, params: Any = PARAMS, steps: int = 1) -> Any:
    optimizer = make_optimizer(config, 100)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adamw_as_torch_has_it():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(2, 3)).astype(np.float32)
    config = OptimConfig(
        learning_rate=0.1,
        schedule="constant",
        warmup_fraction=0.0,
        weight_decay=0.3,
        b1=0.7,
        b2=0.9,
        epsilon=1e-2,
        clip_norm=1.0,
    )
    updated = apply(config, {"kernel": gradient}, {"kernel": jnp.ones((2, 3))}, steps=3)
    weight = torch.ones(2, 3, requires_grad=True)
    theirs = torch.optim.AdamW([weight], lr=0.1, betas=(0.7, 0.9), eps=1e-2, weight_decay=0.3)
    for _ in range(3):
        weight.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        theirs.step()
    np.testing.assert_allclose(updated["kernel"], weight.detach(), atol=2e-6)


def test_adafactor_by_hand_and_its_small_state():
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(128, 160)).astype(np.float32) * np.linspace(0.1, 3, 160)
    gradient = gradient.astype(np.float32)
    fixed: dict[str, Any] = {"schedule": "constant", "warmup_fraction": 0.0, "clip_norm": None}
    config = OptimConfig(name="adafactor", learning_rate=0.1, weight_decay=0.3, **fixed)
    weights = {"kernel": jnp.ones((128, 160))}
    updated = apply(config, {"kernel": gradient}, weights)["kernel"]
    # Shazeer and Stern, 2018 (arXiv 1804.04235), section 3: the first step forgets nothing.
    squares = np.square(gradient.astype(np.float64))
    second = np.outer(squares.mean(axis=1), squares.mean(axis=0)) / squares.mean()
    update = gradient / np.sqrt(second)
    update /= max(1.0, np.sqrt(np.mean(np.square(update))))
    np.testing.assert_allclose(updated, 1 - 0.1 * (update + 0.3), atol=1e-5)
    adam = apply(OptimConfig(learning_rate=0.1, **fixed), {"kernel": gradient}, weights)["kernel"]
    assert np.abs(np.asarray(updated) - np.asarray(adam)).max() > 0.01
    states = [
        make_optimizer(OptimConfig(name=name), 3).init(weights) for name in ("adafactor", "adamw")
    ]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in states]
    assert sizes[0] < 300 < 40_000 < sizes[1]


def test_decay_by_name_leaves_stacked_norms_alone():
    stacked = {"norm": {"scale": jnp.ones((2, 3))}, "proj": {"kernel": jnp.ones((2, 3, 3))}}
    assert decay_mask(stacked) == {"norm": {"scale": False}, "proj": {"kernel": True}}
    factors = {"q_proj": {"lora_a": jnp.ones((2, 3, 1)), "lora_b": jnp.ones((2, 1, 3))}}
    assert decay_mask(factors) == {"q_proj": {"lora_a": True, "lora_b": True}}


TEXT_LAYER = (
    *(f"attention.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("down", "gate", "up")),
)
SPEECH_LAYER = (
    *(f"attention.{name}_proj" for name in ("q", "k", "v", "out")),
    "feed_forward.down",
    "feed_forward.up",
)


@pytest.mark.parametrize(
    ("model", "decayed"),
    [
        ("late_fusion", {"head.frame_downsample.kernel", "head.frame_projection.kernel"}),
        ("dual_encoder", {"head.projections.to_16.kernel", "head.projections.to_4.kernel"}),
        ("nested dual_encoder", {"head.projections.to_16.kernel"}),
        ("qwen3", {f"layers.{name}.kernel" for name in TEXT_LAYER}),
        (
            "hubert_ctc",
            {
                *(f"encoder.feature_encoder.blocks.{block}.conv.kernel" for block in range(2)),
                *(f"encoder.layers.{name}.kernel" for name in SPEECH_LAYER),
                "encoder.projection.kernel",
                "encoder.position_conv.direction",
                "lm_head.kernel",
            },
        ),
        # Its changes of the text tower's attention are not: they were trained so.
        ("soft_ctc", {"head.residual.kernel"}),
        (
            "text_lora",
            {f"layers.{name}.{part}" for name in TEXT_LAYER for part in ("lora_a", "lora_b")},
        ),
    ],
)
def test_what_is_decayed_of_each_model(model, decayed):
    trained = param_tree.split(trained_model(model)).trained
    mask = param_tree.flatten(decay_mask(trained))
    assert {path for path, chosen in mask.items() if chosen} == decayed
    # What runs before there were such factors decayed: they are resumed as they began.
    before = {path for path in mask if "kernel" in path or "direction" in path}
    assert before == (set() if model == "text_lora" else decayed)
    if "head." in min(decayed):
        # The leaves of two axes, as a head has no stacked layers but those of its LoRA.
        shapes = {p: leaf.shape for p, leaf in param_tree.flatten(trained).items()}
        assert {p for p, s in shapes.items() if len(s) > 1 and "lora" not in p} == decayed
    # On a tree of NNX as well.
    state = nnx.to_flat_state(decay_mask(nnx.state(trained_model(model), nnx.Param)))
    assert {param_tree.dotted(path) for path, leaf in state if leaf.get_value()} == decayed


def trained_model(name: str) -> nnx.Module:
    if name == "qwen3":
        return initial_tower(TEXT, 0)
    if name == "hubert_ctc":
        return initial_recogniser(TINY, CtcVocabulary(("<pad>", "|", "a")), 0)
    if name == "soft_ctc":
        return soft_model(residual="logits", lora_rank=2)
    if name == "text_lora":
        return param_tree.freeze(abstract_lora(TEXT, LoraConfig(rank=2)))
    model = tiny_model(learn_temperature=True)
    if name == "late_fusion":
        return model
    nested = name.startswith("nested")
    config = DualEncoderConfig(
        dims=() if nested else (16, 4), nested=nested, learn_temperature=True
    )
    return DualEncoder(model.speech, model.text, config=config, rngs=nnx.Rngs(0))


def test_only_kernels_are_decayed():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updated = apply(OptimConfig(weight_decay=0.5, learning_rate=0.1), zeros)
    assert (np.asarray(updated["head"]["kernel"]) < 1).all()
    np.testing.assert_array_equal(updated["head"]["bias"], 1)
    assert updated["log_temperature"] == PARAMS["log_temperature"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_temperature_stays_in_its_range_and_comes_back(sign):
    config = OptimConfig(learning_rate=0.5, schedule="constant", b1=0.0, warmup_fraction=0.0)
    gradients = jax.tree.map(lambda x: jnp.full_like(x, sign), PARAMS)
    bound = float(np.log(TEMPERATURE_RANGE[0 if sign > 0 else 1]))
    there = apply(config, gradients, steps=20)
    assert float(there["log_temperature"]) == pytest.approx(bound, abs=1e-6)
    back = apply(config, jax.tree.map(jnp.negative, gradients), there)
    assert (float(back["log_temperature"]) - bound) * sign > 0.1
    # Other leaves are not held.
    assert (np.asarray(there["head"]["bias"]) * -sign > 5).all()


def test_clipping_can_be_left_out():
    large = jax.tree.map(lambda x: jnp.full_like(x, 100.0), PARAMS)
    options: dict[str, Any] = {"learning_rate": 0.1, "epsilon": 10.0}
    clipped = apply(OptimConfig(**options), large)["head"]["bias"]
    free = apply(OptimConfig(clip_norm=None, **options), large)["head"]["bias"]
    assert (np.asarray(free) < np.asarray(clipped) - 1e-3).all()


LEAVES = {
    "head": {
        "kernel": np.full((2, 3), 2.0, np.float32),
        "lora": {"down": {"kernel": np.full((2, 2), 2.0, np.float32)}, "up": np.ones(3, "float32")},
        "lora_bias": np.ones(3, np.float32),
    },
    "log_temperature": np.float32(-1),
}


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_rates_are_factors_on_the_first_step_and_on_its_decay(name):
    """Adam's first step is the learning rate in the gradient's direction, whatever its size."""
    fixed: dict[str, Any] = {"schedule": "constant", "warmup_fraction": 0.0, "clip_norm": None}
    rates = {"head": 0.5, "head.lora": 0.1, "head.lora.up": 2.0, "log_temperature": 0.0}
    config = OptimConfig(name=name, learning_rate=0.1, weight_decay=0.3, rates=rates, **fixed)
    params = jax.tree.map(jnp.asarray, LEAVES)
    after = apply(config, jax.tree.map(jnp.ones_like, params), params)
    steps = {
        path: before - np.asarray(leaf)
        for (path, leaf), before in zip(
            param_tree.flatten(after).items(), param_tree.flatten(LEAVES).values(), strict=True
        )
    }
    decayed = 0.1 * (1 + 0.3 * 2)
    expected = {
        "head.kernel": 0.5 * decayed,
        "head.lora.down.kernel": 0.1 * decayed,
        "head.lora.up": 2.0 * 0.1,
        "head.lora_bias": 0.5 * 0.1,  # No part of head.lora: names are whole.
        "log_temperature": 0.0,
    }
    assert steps.keys() == expected.keys()
    for path, size in expected.items():
        np.testing.assert_allclose(steps[path], size, atol=2e-6, err_msg=path)


def test_rates_of_1_are_as_none():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    plain = apply(OptimConfig(learning_rate=0.1), gradients, steps=3)
    same = apply(OptimConfig(learning_rate=0.1, rates={"head": 1.0}), gradients, steps=3)
    jax.tree.map(np.testing.assert_array_equal, plain, same)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("head.kernal", "Did you mean head.kernel?"),
        ("kernel", "Did you mean head.kernel?"),
        ("zzz", "Expected one of head, head.bias, head.kernel, log_temperature"),
        ("head.", "Did you mean head?"),
        ("", "Expected one of head"),
    ],
)
def test_a_rate_for_leaves_that_are_not_trained_is_refused(name, hint):
    with pytest.raises(MrlError) as error:
        make_optimizer(OptimConfig(rates={name: 0.5}), 10).init(PARAMS)
    assert f"optim.rates has {name!r}, with which no trained leaf's path begins" in str(error.value)
    assert hint in str(error.value)


def test_the_average_is_that_of_a_plain_recursion():
    config = OptimConfig(learning_rate=0.1, average_decay=0.4)
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    optimizer = make_optimizer(config, 100)
    params: Any = PARAMS
    state = optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    average = {p: np.asarray(x, np.float64) for p, x in param_tree.flatten(PARAMS).items()}
    kept = []
    for step in range(1, 7):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        kept.append(min(0.4, (1 + step) / (10 + step)))
        for path, leaf in param_tree.flatten(params).items():
            average[path] = kept[-1] * average[path] + (1 - kept[-1]) * np.asarray(leaf, np.float64)
        ours = param_tree.flatten(averaged_weights(state))
        assert ours.keys() == average.keys()
        for path, leaf in ours.items():
            np.testing.assert_allclose(leaf, average[path], rtol=1e-6)
    assert kept[0] < 0.2 < kept[-1] == 0.4  # Both the ramp and the decay itself were seen.
    assert not np.allclose(average["head.bias"], params["head"]["bias"], atol=1e-3)


def test_the_weights_are_trained_as_without_an_average_and_none_is_kept():
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    plain = apply(OptimConfig(learning_rate=0.1), gradients, steps=3)
    averaging = OptimConfig(learning_rate=0.1, average_decay=0.9)
    jax.tree.map(np.testing.assert_array_equal, plain, apply(averaging, gradients, steps=3))
    assert averaged_weights(make_optimizer(OptimConfig(), 3).init(PARAMS)) is None
    state = make_optimizer(averaging, 3).init(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, averaged_weights(state), PARAMS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "optim.learning_rate is 0.0, expected above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is NaN"),
        ({"warmup_fraction": 1.0}, "optim.warmup_fraction is 1.0, expected 0 up to 1"),
        ({"average_decay": 1.0}, "optim.average_decay is 1.0, expected 0 up to 1"),
        ({"average_decay": -0.1}, "optim.average_decay is -0.1"),
        ({"rates": {"head": -1.0}}, "optim.rates.head is -1.0, expected 0 or more"),
        ({"rates": {"head": float("nan")}}, "rates is a mapping whose 'head' is NaN"),
        ({"rates": {"head": float("inf")}}, "optim.rates.head is inf"),
        ({"accumulation_steps": 0}, "optim.accumulation_steps is 0, expected 1 or more"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(MrlError, match=words):
        OptimConfig(**options)
