"""The nested softmax by tiles, against the definition differentiated by JAX in float64's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from traced import equations

from mrl_jax.losses import nested_softmax as module
from mrl_jax.losses.matryoshka import matryoshka_infonce
from mrl_jax.losses.nested_softmax import nested_cross_entropy

BLOCKS = ((0, 3), (3, 5), (5, 12))


def vectors(rows: int, seed: int, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def by_definition(anchors, candidates, positive, temperature, meets=None):
    """Each prefix on its own, all of it at once."""
    losses = []
    for _, stop in BLOCKS:
        a, c = (
            x[:, :stop] / jnp.linalg.norm(x[:, :stop], axis=1, keepdims=True)
            for x in (anchors, candidates)
        )
        logits = jnp.matmul(a, c.T, precision="highest") / temperature
        own = logits[jnp.arange(len(a)), positive]
        logits = logits if meets is None else jnp.where(meets, logits, -jnp.inf)
        losses.append(jax.nn.logsumexp(logits, axis=1) - own)
    return jnp.stack(losses)


def both(loss, weights, *arrays):
    """Losses, and gradients of their weighted sum."""

    def total(*arrays):
        losses = loss(*arrays)
        return jnp.sum(losses * weights), losses

    grad = jax.jit(jax.grad(total, argnums=tuple(range(len(arrays))), has_aux=True))
    gradients, losses = grad(*map(jnp.asarray, arrays))
    return [np.asarray(x) for x in (losses, *gradients)]


# Few, as each is compiled: tiles of eight rows or of all, kept or made again, warm or cold.
@pytest.mark.parametrize(
    ("rows", "more", "room", "blockwise", "temperature", "traced"),
    [
        (12, 0, 1, False, 0.05, False),
        (12, 5, 1, True, 0.05, True),
        (12, 5, 10_000, True, 0.01, False),
        (12, 0, 10_000, False, 0.05, True),
        (17, 0, 1, True, 0.01, True),
        (7, 5, 100, False, 1.0, False),
        (1, 0, 1, False, 0.05, True),
    ],
)
def test_it_is_the_definition(rows, more, room, blockwise, temperature, traced):
    rng = np.random.default_rng(rows)
    a, c = vectors(rows, 1), vectors(rows + more, 2)
    positive = jnp.asarray(rng.permutation(rows + more)[:rows])
    weights = jnp.asarray(rng.normal(size=(3, rows)), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_TILE", room)  # Tiles of eight rows, or of all.
        if traced:
            arrays = (a, c, np.float32(temperature))
            result = both(
                lambda a, c, t: nested_cross_entropy(
                    a, c, positive, BLOCKS, t, blockwise=blockwise
                ),
                weights,
                *arrays,
            )
            expected = both(lambda a, c, t: by_definition(a, c, positive, t), weights, *arrays)
        else:
            result = both(
                lambda a, c: nested_cross_entropy(
                    a, c, positive, BLOCKS, temperature, blockwise=blockwise
                ),
                weights,
                a,
                c,
            )
            expected = both(lambda a, c: by_definition(a, c, positive, temperature), weights, a, c)
    for one, other in zip(result, expected, strict=True):
        assert np.all(np.isfinite(one))
        scale = max(1.0, float(np.abs(other).max()), 0.1 / temperature)
        np.testing.assert_allclose(one / scale, other / scale, atol=3e-5)


@pytest.mark.parametrize("blockwise", [True, False])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_gpu_computes_anew_what_it_uses_twice(monkeypatch, backend, blockwise):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    q, d = vectors(12, 1), vectors(12, 2)
    weights = np.random.default_rng(4).normal(size=(len(BLOCKS), 12)).astype(np.float32)

    def loss(q, d):
        return nested_cross_entropy(q, d, jnp.arange(12), BLOCKS, 0.05, blockwise=blockwise)

    def total(q, d):
        return jnp.sum(loss(q, d) * weights)

    found = {one.primitive.name for one in equations(jax.make_jaxpr(jax.grad(total))(q, d).jaxpr)}
    assert ("optimization_barrier" in found) == (backend == "cpu")
    expected = both(lambda q, d: by_definition(q, d, jnp.arange(12), 0.05), weights, q, d)
    for one, other in zip(both(loss, weights, q, d), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_cold_logits_neither_overflow_nor_vanish():
    """Where exp(cosine / temperature) is beyond float32: at a temperature of 0.005 it is e200."""
    a = vectors(6, 0)
    for temperature in (0.005, jnp.float32(0.005)):
        losses = nested_cross_entropy(
            jnp.asarray(a), jnp.asarray(-a), jnp.arange(6), BLOCKS, temperature
        )
        expected = by_definition(jnp.asarray(a), jnp.asarray(-a), jnp.arange(6), 0.005)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert float(jnp.max(losses)) > 200


@pytest.mark.parametrize("room", [1, 10_000])
@pytest.mark.parametrize("blockwise", [True, False])
def test_ids_and_masks_are_those_of_every_tile(monkeypatch, room, blockwise):
    """Ids, rows that do not count and hard negatives: by tiles as all at once."""
    rng = np.random.default_rng(3)
    rows = 21
    q, d, hard = vectors(rows, 1), vectors(rows, 2), vectors(rows, 3).reshape(rows, 1, 12)
    query_ids, document_ids = (jnp.asarray(rng.integers(0, 15, rows)) for _ in range(2))
    counts = jnp.asarray(rng.random(rows) > 0.2)

    def loss(q, d, hard):
        return matryoshka_infonce(
            q,
            d,
            dims=(12, 5, 3),
            symmetric=True,
            hard_negatives=hard,
            query_ids=query_ids,
            document_ids=document_ids,
            hard_negative_ids=document_ids[::-1, None],
            where=counts,
            blockwise=blockwise,
        ).total

    def expected(q, d, hard):
        meets = (query_ids[:, None] != query_ids[None, :]) & (
            document_ids[:, None] != document_ids[None, :]
        )
        meets = counts[None, :] & (meets | jnp.eye(rows, dtype=bool))
        extra = counts[None, :] & (document_ids[:, None] != document_ids[::-1][None, :])
        there = by_definition(
            q,
            jnp.concatenate((d, hard[:, 0])),
            jnp.arange(rows),
            0.05,
            jnp.concatenate((meets, extra), axis=1),
        )
        back = by_definition(d, q, jnp.arange(rows), 0.05, meets)
        each = jnp.where(counts[None, :], (there + back) / 2, 0.0)
        return jnp.sum(each) / (3 * jnp.sum(counts.astype(jnp.float32)))

    monkeypatch.setattr(module, "CPU_TILE", room)
    arrays = [jnp.asarray(x) for x in (q, d, hard)]
    result = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)
    right = jax.jit(jax.value_and_grad(expected, argnums=(0, 1, 2)))(*arrays)
    for one, other in zip(jax.tree.leaves(result), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    plain = matryoshka_infonce(arrays[0], arrays[1], dims=(12, 5, 3), symmetric=True).total
    assert abs(float(plain) - float(result[0])) > 1e-3


def largest(function, *arrays) -> int:
    """Entries of the largest array that a function computes."""
    sizes: list[int] = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            sizes.extend(int(np.prod(out.aval.shape)) for out in equation.outvars)
            for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    walk(jax.make_jaxpr(function)(*arrays).jaxpr)
    return max(sizes)


def test_blockwise_has_no_array_of_rows_by_candidates():
    rows = 4096
    q, d = (jnp.zeros((rows, 12)) for _ in range(2))

    def grad(blockwise):
        return jax.grad(
            lambda q, d: matryoshka_infonce(q, d, dims=(12, 5, 3), blockwise=blockwise).total,
            (0, 1),
        )

    assert largest(grad(True), q, d) < rows * rows // 4
    assert largest(grad(False), q, d) >= 3 * rows * rows
    # By default so: the products take 192 MiB here, 3 GiB with four times the rows.
    assert largest(grad(None), q, d) >= 3 * rows * rows
    q, d = (jnp.zeros((4 * rows, 12)) for _ in range(2))
    assert largest(grad(None), q, d) < rows * rows
