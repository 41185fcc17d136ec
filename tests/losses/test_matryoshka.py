"""Losses against plain PyTorch and sentence-transformers, value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.losses.matryoshka import l1_cosine, matryoshka_infonce

ROWS, WIDTH = 6, 16
DIMS = (16, 8, 4)
SHARES = (3.0, 1.0, 2.0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


Q, D = draw(ROWS, WIDTH, seed=1), draw(ROWS, WIDTH, seed=2)
HARD = draw(ROWS, 2, WIDTH, seed=3)
QUERY_IDS = np.array([0, 1, 2, 0, 4, 5], np.int32)
DOCUMENT_IDS = np.array([7, 8, 9, 10, 8, 11], np.int32)
ROWS_THAT_COUNT = np.array([True, False, True, True, False, True])


def torch_infonce(
    q, d, *, dims, weights=None, temperature=0.05, symmetric=False, hard=None, negative=None
):
    """The plain way: one softmax a prefix. `negative` [B, B + M·B] says what is a candidate."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    losses = []
    for dim in dims:
        a, b = normalize(q[:, :dim], dim=1), normalize(d[:, :dim], dim=1)
        every = b
        if hard is not None:
            every = torch.cat((b, normalize(hard.reshape(-1, hard.shape[-1])[:, :dim], dim=1)))
        labels = torch.arange(len(a))
        scores = a @ every.T / temperature
        back = b @ a.T / temperature
        if negative is not None:
            scores = scores.masked_fill(~negative, -torch.inf)
            back = back.masked_fill(~negative[:, : len(a)].T, -torch.inf)
        loss = cross_entropy(scores, labels)
        if symmetric:
            loss = (loss + cross_entropy(back, labels)) / 2
        losses.append(loss)
    weights = weights or [1.0] * len(dims)
    total = torch.stack([w * x for w, x in zip(weights, losses, strict=True)]).sum()
    return total / sum(weights), losses


def tensors(*arrays):
    torch = pytest.importorskip("torch")
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


def close(actual, expected, tolerance=1e-5):
    if hasattr(expected, "detach"):
        expected = expected.detach().numpy()
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=tolerance)


def value_and_grad(loss, *arrays):
    return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))(*arrays)


class TestInfonceAgainstTorch:
    @pytest.mark.parametrize("symmetric", [False, True])
    @pytest.mark.parametrize("dims", [DIMS, (4, 16, 8), (8,), (1, 9)])
    def test_value_and_gradient(self, dims, symmetric):
        q, d = tensors(Q, D)
        total, each = torch_infonce(q, d, dims=dims, symmetric=symmetric)
        total.backward()
        options = {"dims": dims, "symmetric": symmetric}
        loss, gradients = value_and_grad(
            lambda a, b: matryoshka_infonce(a, b, **options).total, Q, D
        )
        close(loss, total)
        close(gradients[0], q.grad)
        close(gradients[1], d.grad)
        result = matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), **options)
        close(result.per_dim, [x.item() for x in each])
        close(result.per_row.mean(axis=1), result.per_dim)

    def test_the_two_directions_differ(self):
        one, both = (
            matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), dims=DIMS, symmetric=symmetric)
            for symmetric in (False, True)
        )
        assert abs(one.total - both.total) > 1e-2

    def test_weights_and_hard_negatives(self):
        q, d, hard = tensors(Q, D, HARD)
        total, _ = torch_infonce(q, d, dims=DIMS, weights=SHARES, hard=hard)
        total.backward()

        def ours(a, b, c):
            return matryoshka_infonce(a, b, dims=DIMS, weights=SHARES, hard_negatives=c).total

        loss, gradients = value_and_grad(ours, Q, D, HARD)
        close(loss, total)
        for gradient, expected in zip(gradients, (q, d, hard), strict=True):
            close(gradient, expected.grad)
        without = matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), dims=DIMS, weights=SHARES)
        assert abs(loss - without.total) > 1e-2

    def test_equal_ids_are_never_negatives(self):
        torch = pytest.importorskip("torch")
        same = (QUERY_IDS[:, None] == QUERY_IDS) | (DOCUMENT_IDS[:, None] == DOCUMENT_IDS)
        hard_ids = np.array([[1, 7], [8, 2], [3, 4], [10, 9], [5, 6], [11, 11]], np.int32)
        candidate = np.concatenate(
            (~same | np.eye(ROWS, dtype=bool), DOCUMENT_IDS[:, None] != hard_ids.reshape(-1)),
            axis=1,
        )
        q, d, hard = tensors(Q, D, HARD)
        total, _ = torch_infonce(
            q, d, dims=DIMS, symmetric=True, hard=hard, negative=torch.tensor(candidate)
        )
        total.backward()

        def ours(a, b, c, **ids):
            options = {"dims": DIMS, "symmetric": True, "hard_negatives": c, **ids}
            return matryoshka_infonce(a, b, **options).total

        ids = {
            "query_ids": jnp.asarray(QUERY_IDS),
            "document_ids": jnp.asarray(DOCUMENT_IDS),
            "hard_negative_ids": jnp.asarray(hard_ids),
        }
        loss, gradients = value_and_grad(lambda *x: ours(*x, **ids), Q, D, HARD)
        close(loss, total)
        for gradient, expected in zip(gradients, (q, d, hard), strict=True):
            close(gradient, expected.grad)
        for name in ids:
            others = {key: value for key, value in ids.items() if key != name}
            if name == "document_ids":
                others.pop("hard_negative_ids")
            less = ours(*(jnp.asarray(x) for x in (Q, D, HARD)), **others)
            assert abs(less - loss) > 1e-3, name

    def test_a_trained_temperature(self):
        torch = pytest.importorskip("torch")
        q, d = tensors(Q, D)
        temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        total, _ = torch_infonce(q, d, dims=DIMS, temperature=temperature)
        total.backward()
        loss, gradient = jax.value_and_grad(
            lambda t: (
                matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), dims=DIMS, temperature=t).total
            )
        )(jnp.float32(0.3))
        close(loss, total)
        close(gradient, temperature.grad)
        assert abs(gradient) > 1e-2


@pytest.mark.parametrize("symmetric", [False, True])
def test_sentence_transformers(symmetric):
    """Its MatryoshkaLoss adds the weighted losses up; ours is their weighted mean."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses

    class Given(torch.nn.Module):
        """A model whose 'features' are its embeddings."""

        def forward(self, features):
            return {"sentence_embedding": features["vectors"]}

        def get_embedding_dimension(self):
            return WIDTH

    model = Given()
    options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    inner = losses.MultipleNegativesRankingLoss(model, 20.0, **(options if symmetric else {}))
    theirs = losses.MatryoshkaLoss(model, inner, list(DIMS), matryoshka_weights=list(SHARES))
    q, d = (torch.tensor(x, requires_grad=True) for x in (Q, D))
    total = theirs([{"vectors": q}, {"vectors": d}], torch.zeros(0))
    total.backward()

    def ours(a, b):
        result = matryoshka_infonce(
            a, b, dims=DIMS, weights=SHARES, temperature=1 / 20, symmetric=symmetric
        )
        return result.total * jnp.float32(sum(SHARES))

    loss, gradients = value_and_grad(ours, Q, D)
    close(loss, total)
    close(gradients[0], q.grad, 2e-5)
    close(gradients[1], d.grad, 2e-5)
    colder = matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), dims=DIMS, temperature=0.04)
    assert abs(colder.total * sum(SHARES) - total.item()) > 1e-2


def test_masked_rows_are_as_if_absent():
    keep = ROWS_THAT_COUNT
    options = {"dims": DIMS, "symmetric": True}

    def masked(a, b, c):
        result = matryoshka_infonce(a, b, hard_negatives=c, where=jnp.asarray(keep), **options)
        return result.total, result

    def subset(a, b, c):
        return matryoshka_infonce(a, b, hard_negatives=c, **options).total

    arrays = [jnp.asarray(x) for x in (Q, D, HARD)]
    of_all = jax.value_and_grad(masked, argnums=(0, 1, 2), has_aux=True)
    (total, result), gradients = jax.jit(of_all)(*arrays)
    expected, of_subset = value_and_grad(subset, *(x[keep] for x in (Q, D, HARD)))
    close(total, expected, 1e-6)
    for gradient, reference in zip(gradients, of_subset, strict=True):
        close(gradient[keep], reference, 1e-6)
        assert not np.asarray(gradient[~keep]).any()
    assert not np.asarray(result.per_row[:, ~keep]).any()
    assert abs(total - subset(*arrays)) > 1e-2
    nothing = matryoshka_infonce(*arrays[:2], where=jnp.zeros(ROWS, bool), dims=DIMS)
    assert nothing.total == 0


def products_of(function, *arrays):
    """(flops, precision) of every matrix product in a function's jaxpr."""
    products = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (contract, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                depth = np.prod([shape[axis] for axis in contract])
                size = int(np.prod(equation.outvars[0].aval.shape) * depth)
                products.append((size, equation.params["precision"]))
            for value in equation.params.values():
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    with jax.default_matmul_precision("default"):
        walk(jax.make_jaxpr(function)(*arrays).jaxpr)
    return products


def test_all_dims_take_one_full_width_product():
    full = ROWS * ROWS * WIDTH
    forward = products_of(lambda a, b: matryoshka_infonce(a, b, dims=DIMS).total, Q, D)
    assert sum(size for size, _ in forward) == full
    backward = products_of(
        jax.grad(lambda a, b: matryoshka_infonce(a, b, dims=DIMS).total, (0, 1)), Q, D
    )
    assert sum(size for size, _ in backward) == 3 * full
    one_a_dim = products_of(
        lambda a, b: sum(matryoshka_infonce(a, b, dims=(dim,)).total for dim in DIMS), Q, D
    )
    assert sum(size for size, _ in one_a_dim) > full  # The count can tell.
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert all(precision == highest for _, precision in forward + backward)


@pytest.mark.parametrize("zeroed", ["queries", "documents", "both"])
def test_zero_vectors_have_finite_gradients(zeroed):
    q, d = Q.copy(), D.copy()
    if zeroed != "documents":
        q[1] = 0
        q[2, :4] = 0  # Zero in the shortest prefix only.
    if zeroed != "queries":
        d[1] = 0
    for loss in (matryoshka_infonce, l1_cosine):
        value, gradients = value_and_grad(lambda a, b, f=loss: f(a, b, dims=DIMS).total, q, d)
        assert np.isfinite(value)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(ROWS)))
def test_the_order_of_rows_does_not_matter(order):
    order = np.asarray(order)

    def ours(rows):
        return matryoshka_infonce(
            jnp.asarray(Q[rows]),
            jnp.asarray(D[rows]),
            dims=DIMS,
            query_ids=jnp.asarray(QUERY_IDS[rows]),
            document_ids=jnp.asarray(DOCUMENT_IDS[rows]),
            where=jnp.asarray(ROWS_THAT_COUNT[rows]),
        )

    straight, permuted = ours(np.arange(ROWS)), ours(order)
    close(permuted.total, straight.total, 1e-6)
    close(permuted.per_row, straight.per_row[:, order], 1e-5)


def test_lengths_do_not_matter_and_bfloat16_is_read_as_it_is():
    straight = matryoshka_infonce(jnp.asarray(Q), jnp.asarray(D), dims=DIMS)
    close(matryoshka_infonce(jnp.asarray(30 * Q), jnp.asarray(D), dims=DIMS).total, straight.total)
    q, d = (jnp.asarray(x, jnp.bfloat16) for x in (Q, D))
    low = matryoshka_infonce(q, d, dims=DIMS)
    rounded = (x.astype(jnp.float32) for x in (q, d))
    assert low.total.dtype == jnp.float32
    close(low.per_row, matryoshka_infonce(*rounded, dims=DIMS).per_row, 1e-6)
    assert jax.grad(lambda a: matryoshka_infonce(a, d, dims=DIMS).total)(q).dtype == jnp.bfloat16


@pytest.mark.parametrize("normalize", [True, False])
def test_l1_cosine_against_torch(normalize):
    torch = pytest.importorskip("torch")
    p, t = tensors(Q, D)
    keep = torch.tensor(ROWS_THAT_COUNT)
    total = torch.zeros((), dtype=torch.float64)
    for dim, share in zip(DIMS, SHARES, strict=True):
        a, b = p[:, :dim], t[:, :dim]
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)
        if normalize:
            a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
        rows = (a - b).abs().mean(dim=1) - torch.nn.functional.logsigmoid(cosine)
        total = total + share / sum(SHARES) * rows[keep].mean()
    total.backward()

    def ours(a, b):
        options = {"dims": DIMS, "weights": SHARES, "normalize": normalize}
        return l1_cosine(a, b, where=jnp.asarray(ROWS_THAT_COUNT), **options).total

    loss, gradients = value_and_grad(ours, Q, D)
    close(loss, total)
    close(gradients[0], p.grad)
    close(gradients[1], t.grad)
    other = l1_cosine(jnp.asarray(Q), jnp.asarray(D), dims=DIMS, weights=SHARES)
    assert abs(other.total - loss) > 1e-3  # Rows count, and so does `normalize`.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dims": ()}, "dims is empty"),
        ({"dims": (8, 8)}, "different widths"),
        ({"dims": (17,)}, "dims has 17, expected 1 to 16"),
        ({"dims": (0,)}, "dims has 0"),
        ({"dims": (8, 4), "weights": (1.0,)}, "1 weights, expected 2"),
        ({"dims": (8, 4), "weights": (1.0, -1.0)}, "expected none negative"),
        ({"dims": (8, 4), "weights": (0.0, 0.0)}, "one positive"),
    ],
)
def test_dims_and_weights_that_do_not_fit(options, words):
    for loss in (matryoshka_infonce, l1_cosine):
        with pytest.raises(ValueError, match=words):
            loss(jnp.asarray(Q), jnp.asarray(D), **options)


def test_ids_of_hard_negatives_need_something_to_compare_them_to():
    q, d, hard = (jnp.asarray(x) for x in (Q, D, HARD))
    ids = jnp.zeros((ROWS, 2), jnp.int32)
    with pytest.raises(ValueError, match="go with hard_negatives and document_ids"):
        matryoshka_infonce(q, d, dims=DIMS, hard_negatives=hard, hard_negative_ids=ids)
