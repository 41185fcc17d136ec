"""The step on a small late-fusion model: what moves, what does not, what is compiled."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_fusion import DIMS, tiny_batch, tiny_model

from mrl_jax.losses.config import LossConfig
from mrl_jax.nn.param_tree import Split, flatten, split
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import TEMPERATURE_RANGE, OptimConfig, make_optimizer
from mrl_jax.training.state import init_state, trained_leaves

LOSS = LossConfig(dims=DIMS, learn_temperature=True)


@pytest.fixture(scope="module")
def run():
    """Seven steps over two shapes, with what was compiled in each."""
    model = tiny_model(learn_temperature=True)
    parts = split(model)
    before = {name: np.array(x) for name, x in parts.frozen.items()}
    optimizer = make_optimizer(OptimConfig(learning_rate=0.05, warmup_fraction=0.0), 20)
    place = Devices("pmap")
    state = place.replicate(init_state(parts.trained, optimizer))
    frozen = place.replicate(parts.frozen)
    step = place.compile(make_train_step(parts.rebuild, optimizer, LOSS, axis_name=place.axis_name))
    compiled = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "backend_compile" in event:
            compiled[-1] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    history = []
    for number in range(7):
        batch = place.put_batch(tiny_batch(8, samples=400 if number in (2, 5) else 480))
        compiled.append(0)
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready(state)
        history.append({name: np.asarray(value) for name, value in metrics.items()})
    jax.monitoring.unregister_event_duration_listener(listen)
    return model, parts, before, frozen, state, history, compiled


def test_it_compiles_once_a_shape(run):
    assert run[-1] == [1, 0, 1, 0, 0, 0, 0]


def test_frozen_is_bitwise_the_same(run):
    _, parts, before, frozen, *_ = run
    assert set(before) == set(frozen)
    for name, value in before.items():
        np.testing.assert_array_equal(np.asarray(frozen[name]), value)
        np.testing.assert_array_equal(np.asarray(parts.frozen[name]), value)


def test_every_trained_leaf_moves(run):
    _, parts, _, _, state, *_ = run
    for name, value in flatten(parts.trained).items():
        assert (np.asarray(flatten(state.trained)[name]) != np.asarray(value)).any(), name
    assert int(np.asarray(state.step)) == 7


def test_the_loss_falls_and_the_metrics_are_returned(run):
    history = run[5]
    assert history[-1]["loss"] < history[0]["loss"] - 0.5
    first = history[0]
    assert first["loss_per_dim"].shape == (len(DIMS),)
    assert first["loss"] == pytest.approx(first["loss_per_dim"].mean(), abs=1e-5)
    assert first["temperature"] == pytest.approx(0.05)
    assert all(np.isfinite(value).all() for metrics in history for value in metrics.values())
    low, high = TEMPERATURE_RANGE
    temperatures = [metrics["temperature"] for metrics in history]
    assert all(low - 1e-6 <= value <= high + 1e-6 for value in temperatures)
    assert len(set(map(float, temperatures))) > 1


def test_the_trained_leaves():
    """Pinned: the head, and nothing of the towers."""
    head = {
        "head.frame_downsample.bias": (16,),
        "head.frame_downsample.kernel": (2, 16, 16),
        "head.frame_projection.kernel": (32, 16),
    }
    assert trained_leaves(split(tiny_model()).trained) == head
    learned = split(tiny_model(learn_temperature=True))
    assert trained_leaves(learned.trained) == {**head, "log_temperature": ()}
    assert {name.split(".")[0] for name in learned.frozen} == {"head", "speech", "text"}
    of_head = {name for name in learned.frozen if name.startswith("head.")}
    assert of_head == {"head.layer_scale", "head.token_scale"}


def test_rebuilding_gives_the_same_model():
    model = tiny_model()
    parts = split(model)
    assert isinstance(parts, Split)
    batch = tiny_batch(4)
    inputs = (jnp.asarray(batch.document), jnp.asarray(batch.document_mask))
    again = parts.rebuild(parts.trained, parts.frozen)
    np.testing.assert_array_equal(again.embed_text(*inputs), model.embed_text(*inputs))
    other = parts.rebuild(parts.trained, jax.tree.map(lambda x: x * 1.5, parts.frozen))
    assert np.abs(other.embed_text(*inputs) - model.embed_text(*inputs)).max() > 1e-3


def test_a_new_state_is_a_copy():
    trained = {"a": jnp.ones(3)}
    state = init_state(trained, make_optimizer(OptimConfig(), 3))
    assert state.trained["a"] is not trained["a"]
    state.trained["a"].delete()
    np.testing.assert_array_equal(trained["a"], 1)
