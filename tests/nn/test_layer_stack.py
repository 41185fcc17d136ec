"""The scanned stack against a plain loop; remat and unroll change cost, never results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mrl_jax.nn.layer_stack import run_layers, stack_layers

LAYERS, WIDTH = 3, 8
# XLA fuses the variants differently, which moves the last bits.
TOLERANCE = 1e-6


class Layer(nnx.Module):
    """The smallest layer that is not linear and that reads context."""

    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, shift: jax.Array) -> jax.Array:
        return x + jnp.tanh(self.linear(x) + shift)


@pytest.fixture(scope="module")
def stack() -> Layer:
    return stack_layers(lambda rngs: Layer(rngs), LAYERS, nnx.Rngs(0))


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, WIDTH), np.float32))


SHIFT = jnp.full((1, 1, WIDTH), 0.3)


def _apply(stack, x, *, remat=False, unroll=False, keep_states=True):
    return run_layers(stack, x, SHIFT, remat=remat, unroll=unroll, keep_states=keep_states)


def _loop(stack, x) -> tuple[jax.Array, list[jax.Array]]:
    graphdef, state = nnx.split(stack)
    states = []
    for index in range(LAYERS):
        layer = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=index: leaf[i], state))
        x = layer(x, SHIFT)
        states.append(x)
    return x, states


def test_layers_are_stacked_and_initialised_each_for_itself(stack):
    kernel = np.asarray(stack.linear.kernel[...])
    assert kernel.shape == (LAYERS, WIDTH, WIDTH)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert np.abs(kernel[1] - kernel[2]).max() > 0.1


def test_scan_is_a_loop_over_the_layers_in_order(stack, x):
    output, states = _apply(stack, x)
    expected, expected_states = _loop(stack, x)
    assert states is not None
    np.testing.assert_allclose(output, expected, atol=TOLERANCE)
    np.testing.assert_allclose(states, np.stack(expected_states), atol=TOLERANCE)
    backwards, _ = _loop(nnx.merge(*_reversed(stack)), x)
    assert np.abs(np.asarray(output - backwards)).max() > 1e-2


def _reversed(stack):
    graphdef, state = nnx.split(stack)
    return graphdef, jax.tree.map(lambda leaf: leaf[::-1], state)


def test_states_are_kept_only_on_request(stack, x):
    output, states = _apply(stack, x, keep_states=True)
    bare, nothing = _apply(stack, x, keep_states=False)
    assert nothing is None
    assert states is not None
    assert states.shape == (LAYERS, *x.shape)
    np.testing.assert_allclose(bare, output, atol=TOLERANCE)
    np.testing.assert_array_equal(states[-1], output)
    assert np.abs(np.asarray(states[0] - output)).max() > 1e-2


def _loss_of(stack, x, options):
    graphdef, state = nnx.split(stack)

    def loss(state, x):
        output, states = _apply(nnx.merge(graphdef, state), x, **options)
        assert states is not None
        return jnp.sum(jnp.sin(output)) + jnp.sum(jnp.square(states[0]))

    return loss, (state, x)


@pytest.mark.parametrize(
    "options",
    [{"remat": True}, {"unroll": True}, {"remat": True, "unroll": True}],
    ids=["remat", "unroll", "both"],
)
def test_remat_and_unroll_leave_value_and_gradient(stack, x, options):
    plain, arguments = _loss_of(stack, x, {})
    other, _ = _loss_of(stack, x, options)
    value, gradients = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(*arguments)
    other_value, other_gradients = jax.jit(jax.value_and_grad(other, argnums=(0, 1)))(*arguments)
    np.testing.assert_allclose(value, other_value, rtol=TOLERANCE)
    leaves, other_leaves = jax.tree.leaves(gradients), jax.tree.leaves(other_gradients)
    assert len(leaves) == len(other_leaves) == 3
    for leaf, other_leaf in zip(leaves, other_leaves, strict=True):
        assert np.abs(np.asarray(leaf)).max() > 1e-2
        np.testing.assert_allclose(leaf, other_leaf, atol=1e-5)

    # The two must be different programs, or the comparison proves nothing.
    program, other_program = (str(jax.make_jaxpr(jax.grad(f))(*arguments)) for f in (plain, other))
    assert program != other_program
    if options.get("remat"):  # Products with weights are made again, not kept.
        assert other_program.count("dot_general") > program.count("dot_general")


def test_a_changed_layer_changes_value_and_gradient(stack, x):
    """The negative control of the comparison above."""
    loss, (state, _) = _loss_of(stack, x, {})
    changed = jax.tree.map(lambda leaf: leaf.at[1].multiply(1.1), state)
    run = jax.jit(jax.value_and_grad(loss))
    value, gradient = run(state, x)
    other_value, other_gradient = run(changed, x)
    assert abs(float(value - other_value)) > 1e-3
    differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), gradient, other_gradient)
    assert max(jax.tree.leaves(differences)) > 1e-3
