"""Attention against torch's scaled_dot_product_attention."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from traced import equations

from mrl_jax.nn import attention
from mrl_jax.nn.attention import attend, attend_fused, fitting_places, fused

TOLERANCE = 1e-5
BATCH, LENGTH, HEAD = 2, 7, 8


def _inputs(heads: int, kv_heads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, n, HEAD) for n in (heads, kv_heads, kv_heads)]
    query, key, value = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return query, key, value


def _torch_attention(query, key, value, lengths, *, causal) -> np.ndarray:
    """torch's heads stand before its tokens."""
    torch = pytest.importorskip("torch")
    places = query.shape[1]
    mask = np.tril(np.ones((places, places), bool)) if causal else np.ones((places, places), bool)
    mask = np.repeat(mask[None, None], len(query), axis=0)
    if lengths is not None:
        mask = mask & (np.arange(places) < lengths[:, None])[:, None, None]
    tensors = [torch.from_numpy(x).transpose(1, 2) for x in (query, key, value)]
    mixed = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=torch.from_numpy(mask), enable_gqa=True
    )
    return mixed.transpose(1, 2).numpy()


def _ours(query, key, value, lengths=None, *, causal=False) -> np.ndarray:
    heads = (jnp.asarray(x) for x in (query, key, value))
    given = None if lengths is None else jnp.asarray(lengths)
    return np.asarray(attend(*heads, lengths=given, causal=causal))


LENGTHS = np.array([7, 4], np.int32)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "padded"])
def test_attention_is_torch(heads, kv_heads, causal, lengths):
    inputs = _inputs(heads, kv_heads)
    actual = _ours(*inputs, lengths, causal=causal)
    expected = _torch_attention(*inputs, lengths, causal=causal)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)
    if causal:
        assert np.abs(actual - _ours(*inputs, lengths)).max() > 0.1
    if lengths is not None:
        assert np.abs(actual - _ours(*inputs, causal=causal)).max() > 0.1


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_queries_are_the_whole(monkeypatch, causal):
    """As a CPU takes them: earlier keys only, or many scores."""
    whole = _long_case(causal=causal, blocks=1, monkeypatch=monkeypatch)
    rng = np.random.default_rng(1)
    query, key, value = (rng.standard_normal((2, 50, n, HEAD), np.float32) for n in (4, 2, 2))
    expected = _torch_attention(query, key, value, None, causal=causal)
    np.testing.assert_allclose(whole[0], expected, atol=TOLERANCE)
    for actual, expected in zip(
        _long_case(causal=causal, blocks=8, monkeypatch=monkeypatch), whole, strict=True
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def _long_case(*, causal, blocks, monkeypatch):
    """Attention of 50 places alone, with lengths, with segments, with a bias; and a gradient."""
    monkeypatch.setattr(attention, "QUERIES", 50 // blocks)
    monkeypatch.setattr(attention, "SCORES", 1 if blocks > 1 else 2**22)
    assert -(-50 // attention._queries_at_once(8, 50, causal=causal)) == blocks
    rng = np.random.default_rng(1)
    heads = [jnp.asarray(rng.standard_normal((2, 50, n, HEAD), np.float32)) for n in (4, 2, 2)]
    segments = jnp.asarray(np.sort(rng.integers(0, 5, (2, 50)), axis=1))
    bias = jnp.asarray(rng.standard_normal((2, 4, 50, 50), np.float32))
    lengths = jnp.asarray([50, 31])
    options = ({}, {"lengths": lengths}, {"segments": segments}, {"bias": bias})
    results = [attend(*heads, causal=causal, **given) for given in options]
    assert all(np.abs(np.asarray(results[0] - other)).max() > 0.1 for other in results[1:])

    def loss(*heads):
        return jnp.sum(jnp.square(attend(*heads, causal=causal, lengths=lengths, bias=bias)))

    return [np.asarray(x) for x in (*results, *jax.grad(loss, argnums=(0, 1, 2))(*heads))]


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_blocks_in_bfloat16_are_as_good_as_of_the_whole(monkeypatch, causal):
    rng = np.random.default_rng(2)
    exact = [jnp.asarray(rng.standard_normal((2, 60, n, HEAD), np.float32)) for n in (4, 2, 2)]

    def gradients(dtype):
        heads = [x.astype(dtype) for x in exact]
        loss = lambda *x: jnp.sum(jnp.square(attend(*x, causal=causal).astype(jnp.float32)))  # noqa: E731
        return [np.asarray(x, np.float32) for x in jax.grad(loss, argnums=(0, 1, 2))(*heads)]

    expected, errors = gradients(jnp.float32), []
    for queries, scores in ((60, 2**22), (10, 1)):
        monkeypatch.setattr(attention, "QUERIES", queries)
        monkeypatch.setattr(attention, "SCORES", scores)
        found = gradients(jnp.bfloat16)
        pairs = zip(found, expected, strict=True)
        errors.append([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])
    assert max(errors[0]) < 0.02
    assert all(blocks < 1.5 * whole for whole, blocks in zip(*errors, strict=True))


@pytest.mark.parametrize("given", ["bias", "segments", "lengths", "causal"])
def test_programs_for_any_number_of_rows(given):
    """As exports trace them."""
    (rows,) = jax.export.symbolic_shape("B")
    shape = jax.ShapeDtypeStruct

    def run(query, key, value, more):
        options: dict[str, Any] = {"causal": True} if given == "causal" else {given: more}
        return attend(query, key, value, **options)

    more = {
        "bias": shape((rows, 4, 9, 9), jnp.float32),
        "segments": shape((rows, 9), jnp.int32),
    }.get(given, shape((rows,), jnp.int32))
    heads = [shape((rows, 9, n, HEAD), jnp.float32) for n in (4, 2, 2)]
    exported = jax.export.export(jax.jit(run))(*heads, more)
    rng = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(rng.standard_normal((3, 9, n, HEAD), np.float32)) for n in (4, 2, 2)
    )
    filled = jnp.ones((3, *more.shape[1:]), more.dtype) * (4 if given == "lengths" else 1)
    expected = run(query, key, value, filled)
    found = exported.call(query, key, value, filled)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_products_are_of_bfloat16_with_one_axis_of_batches():
    """XLA's CPU backend would widen others to float32."""
    heads = [jnp.zeros((2, 130, n, HEAD), jnp.bfloat16) for n in (4, 2, 2)]
    jaxpr = jax.make_jaxpr(lambda *x: attend(*x, causal=True))(*heads).jaxpr
    products = [one for one in equations(jaxpr) if one.primitive.name == "dot_general"]
    assert len(products) == 4  # Of two blocks of queries.
    for product in products:
        assert {x.aval.dtype.name for x in product.invars} == {"bfloat16"}
        assert product.outvars[0].aval.dtype == jnp.float32
        assert len(product.params["dimension_numbers"][1][0]) == 1


@pytest.mark.parametrize("places", [6, 7], ids=["even", "odd"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS - 1], ids=["whole", "padded"])
def test_fused_attention_is_given_what_cudnn_takes(monkeypatch, places, causal, lengths):
    """Only its kernel is another's here: XLA's, on the same even number of places."""
    plain = jax.nn.dot_product_attention

    def cudnn(query, key, value, *, implementation, **options):
        assert implementation == "cudnn"
        assert query.shape[1] == key.shape[1] == value.shape[1] == 2 * ((places + 1) // 2)
        return plain(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    heads = [jnp.asarray(x[:, :places]) for x in _inputs(4, 2)]
    given = None if lengths is None else jnp.asarray(lengths)
    actual = attend_fused(*heads, lengths=given, causal=causal)
    expected = attend(*heads, lengths=given, causal=causal)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)


def test_attention_is_fused_on_a_gpu_in_half_precision_alone(monkeypatch):
    query = jnp.zeros((1, 3, 2, HEAD), jnp.bfloat16)
    assert not fused(query)
    assert fitting_places(249, jnp.bfloat16) == 249
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fused(query)
    assert not fused(query.astype(jnp.float32))
    assert not fused(jnp.zeros((1, 3, 2, HEAD + 1), jnp.bfloat16))
    assert fitting_places(249, jnp.bfloat16) == fitting_places(256, jnp.bfloat16) == 256
    assert fitting_places(249, jnp.float32) == 249


def test_each_key_head_serves_neighbouring_query_heads():
    """Grouped heads are 0 0 1 1, not 0 1 0 1."""
    query, key, value = _inputs(4, 2)
    actual = _ours(query, key, value)
    repeated = _ours(query, key.repeat(2, axis=2), value.repeat(2, axis=2))
    tiled = _ours(query, np.tile(key, (1, 1, 2, 1)), np.tile(value, (1, 1, 2, 1)))
    np.testing.assert_allclose(actual, repeated, atol=TOLERANCE)
    assert np.abs(actual - tiled).max() > 0.1


def test_a_query_sees_the_keys_of_its_segment_only():
    query, key, value = _inputs(4, 2)
    segments = np.array([[3, 3, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1]], np.int32)
    for causal in (False, True):
        options = {"causal": causal, "segments": jnp.asarray(segments)}
        actual = np.asarray(attend(*map(jnp.asarray, (query, key, value)), **options))
        for row, numbers in enumerate(segments):
            for number in set(numbers.tolist()):
                of = (row, numbers == number)
                alone = _ours(query[of][None], key[of][None], value[of][None], causal=causal)
                np.testing.assert_allclose(actual[of], alone[0], atol=TOLERANCE)
        assert np.abs(actual - _ours(query, key, value, causal=causal)).max() > 0.1


def test_hidden_keys_get_no_gradient_and_a_row_without_keys_is_finite():
    # A clip too short for a frame has length 0: its NaN would spread to all rows.
    query, key, value = (jnp.asarray(x) for x in _inputs(4, 2))
    lengths = jnp.asarray([5, 0])

    def loss(query, key, value):
        return jnp.sum(jnp.square(attend(query, key, value, lengths=lengths)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value)
    for gradient in gradients:
        assert np.isfinite(np.asarray(gradient)).all()
        assert np.abs(np.asarray(gradient[0])).max() > 0
    for gradient in gradients[1:]:
        assert not np.asarray(gradient[0, 5:]).any()


def test_bfloat16_softmax_is_summed_in_float32():
    """1024 equal weights: a bfloat16 sum would stop growing at 256."""
    length = 1024
    query = jnp.zeros((1, length, 1, HEAD), jnp.bfloat16)
    value = jnp.ones((1, length, 1, HEAD), jnp.bfloat16)
    mixed = attend(query, query, value)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), 1.0, atol=2**-7)
    naive = jax.lax.fori_loop(0, length, lambda _, x: x + jnp.ones((), x.dtype), jnp.bfloat16(0))
    assert float(naive) == 256
