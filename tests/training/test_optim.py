"""The schedule, what is decayed, and the temperature's range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_ctc import TINY
from tiny_fusion import TEXT, tiny_model

from mrl_jax.core.errors import MrlError
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.init import initial_recogniser, initial_tower
from mrl_jax.nn import param_tree
from mrl_jax.training.optim import (
    TEMPERATURE_RANGE,
    OptimConfig,
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
    ],
)
def test_what_is_decayed_of_each_model(model, decayed):
    trained = param_tree.split(trained_model(model)).trained
    mask = param_tree.flatten(decay_mask(trained))
    assert {path for path, chosen in mask.items() if chosen} == decayed
    if "head." in min(decayed):
        # The leaves of two axes, as a head has no stacked layers.
        matrices = {p for p, leaf in param_tree.flatten(trained).items() if leaf.ndim > 1}
        assert matrices == decayed
    # On a tree of NNX as well.
    state = nnx.to_flat_state(decay_mask(nnx.state(trained_model(model), nnx.Param)))
    assert {param_tree.dotted(path) for path, leaf in state if leaf.get_value()} == decayed


def trained_model(name: str) -> nnx.Module:
    if name == "qwen3":
        return initial_tower(TEXT, 0)
    if name == "hubert_ctc":
        return initial_recogniser(TINY, CtcVocabulary(("<pad>", "|", "a")), 0)
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.0}, "optim.learning_rate is 0.0, expected above 0"),
        ({"learning_rate": float("nan")}, "optim.learning_rate is nan"),
        ({"warmup_fraction": 1.0}, "optim.warmup_fraction is 1.0, expected 0 up to 1"),
        ({"accumulation_steps": 0}, "optim.accumulation_steps is 0, expected 1 or more"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(MrlError, match=words):
        OptimConfig(**options)
