"""The exact gradient of a large batch in parts, beside the plain and the naive one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrl_jax.losses.matryoshka import matryoshka_infonce
from mrl_jax.training.grad_cache import cached_value_and_grad, merge_rows, rows_of

ROWS, WIDTH = 16, 12


def params():
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "first": jax.random.normal(keys[0], (6, 20)),
        "second": jax.random.normal(keys[1], (20, WIDTH)),
        "log_temperature": jnp.log(jnp.float32(0.2)),
    }


def batch():
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "query": jax.random.normal(keys[0], (ROWS, 6)),
        "document": jax.random.normal(keys[1], (ROWS, 6)),
        # Two rows of one document, and in different parts.
        "ids": jnp.arange(ROWS).at[5].set(2),
    }


def embed(params, batch):
    def tower(x):
        return jnp.tanh(x @ params["first"]) @ params["second"]

    return {"query": tower(batch["query"]), "document": tower(batch["document"])}


def loss(params, embeddings, batch, axis_name=None):
    result = matryoshka_infonce(
        embeddings["query"],
        embeddings["document"],
        dims=(WIDTH, 4),
        temperature=jnp.exp(params["log_temperature"]),
        document_ids=batch["ids"],
        axis_name=axis_name,
    )
    return result.total, result.per_dim


def plain(params, batch):
    return jax.value_and_grad(lambda p: loss(p, embed(p, batch), batch), has_aux=True)(params)


def worst(ours, theirs):
    errors = jax.tree.map(
        lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)), ours, theirs
    )
    return max(jax.tree.leaves(errors))


@pytest.mark.parametrize("parts", [1, 2, 8, 16])
def test_parts_give_the_whole_batchs_loss_and_gradient(parts):
    (value, per_dim), gradient = jax.jit(cached_value_and_grad(embed, loss, parts=parts))(
        params(), batch()
    )
    (expected, expected_per_dim), whole = plain(params(), batch())
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(per_dim, expected_per_dim, rtol=1e-6)
    assert set(gradient) == set(whole)
    assert worst(gradient, whole) < 1e-5


def test_averaged_gradients_of_micro_batches_are_another_losss():
    _, whole = plain(params(), batch())
    naive = [plain(params(), rows_of(batch(), jnp.asarray(part), 8))[1] for part in range(8)]
    averaged = jax.tree.map(lambda *leaves: sum(leaves) / 8, *naive)
    for name, leaf in whole.items():
        assert worst(averaged[name], leaf) > 0.1, name


@pytest.mark.parametrize("axis_name", ["batch", None])
def test_parts_on_two_devices_give_the_same(axis_name):
    # Rows of a part come from both devices, whether they are mapped over or one array.
    _, whole = plain(params(), batch())
    value_and_grad = cached_value_and_grad(embed, lambda p, e, b: loss(p, e, b, axis_name), parts=4)
    if axis_name is None:
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        gradient = jax.jit(value_and_grad)(params(), jax.device_put(batch(), rows))[1]
    else:
        shared = jax.tree.map(lambda x: x.reshape(2, ROWS // 2, *x.shape[1:]), batch())
        mapped = jax.pmap(
            lambda p, rows: jax.lax.pmean(value_and_grad(p, rows)[1], axis_name),
            axis_name=axis_name,
            in_axes=(None, 0),
            out_axes=None,
        )
        gradient = mapped(params(), shared)
    assert worst(gradient, whole) < 1e-5


def test_gradients_of_low_precision_weights_are_summed_in_float32():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params())

    def wide(params, batch):
        return embed(jax.tree.map(lambda x: x.astype(jnp.float32), params), batch)

    def wide_loss(params, embeddings, batch):
        scaled = {"log_temperature": params["log_temperature"].astype(jnp.float32)}
        return loss(scaled, embeddings, batch)

    gradient = cached_value_and_grad(wide, wide_loss, parts=8)(half, batch())[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    _, whole = plain(jax.tree.map(lambda x: x.astype(jnp.float32), half), batch())
    assert worst(gradient, whole) < 1e-2


def test_rows_are_taken_and_merged_back():
    tree = {"a": jnp.arange(12).reshape(6, 2), "b": jnp.arange(6)}
    pieces = jax.vmap(lambda part: rows_of(tree, part, 3))(jnp.arange(3))
    np.testing.assert_array_equal(pieces["b"], [[0, 3], [1, 4], [2, 5]])
    assert pieces["a"].shape == (3, 2, 2)
    back = merge_rows(pieces)
    assert all(np.array_equal(back[name], tree[name]) for name in tree)
