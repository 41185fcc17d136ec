"""Spectra and rotations against numpy, and views of embeddings against plain slices."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save

from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.evaluation.spectrum.measure import (
    Spectrum,
    block_edges,
    measure_blocks,
    measure_sizes,
    modality_gap,
    sizes_for,
    spectrum,
    views,
)
from mrl_jax.inference.search.exact import truncate
from mrl_jax.inference.search.rotation import (
    ROTATION_FILE,
    Rotation,
    apply_rotation,
    fit_rotation,
    leading_directions,
    read_rotation,
    save_rotation,
    text_keys,
)


def made(queries=30, documents=40, width=16, seed=0):
    """Unit vectors with most energy in hidden directions, and queries near their documents."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(width, width)))[0]
    held = (rng.normal(size=(documents, width)) * 0.7 ** np.arange(width)) @ mixing + 0.2
    answers = rng.integers(0, documents, queries)
    asked = held[answers] + 0.25 * rng.normal(size=(queries, width))
    ids, names = [f"d{i}" for i in range(documents)], [f"q{i}" for i in range(queries)]
    qrels = {name: {f"d{answer}": 1} for name, answer in zip(names, answers, strict=True)}
    asked, held = (truncate(x.astype(np.float32), None) for x in (asked, held))
    return asked, held, Judgements(names, ids, qrels)


@pytest.mark.parametrize("shape", [(30, 8), (5, 12), (12, 12)])
@pytest.mark.parametrize("centred", [False, True])
def test_a_spectrum_is_that_of_numpy(shape, centred):
    vectors = np.random.default_rng(1).normal(size=shape).astype(np.float32) + 0.5
    found = spectrum(vectors, centred=centred)
    matrix = vectors.astype(np.float64)
    matrix = matrix - matrix.mean(axis=0) if centred else matrix
    np.testing.assert_allclose(
        found.values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-12, atol=1e-12
    )
    # The same from the eigenvalues of the Gram matrix, another road.
    squares = np.clip(np.sort(np.linalg.eigvalsh(matrix @ matrix.T))[::-1], 0, None)
    squares = squares[: min(shape)]
    np.testing.assert_allclose(found.values**2, squares, atol=1e-9 * squares[0])
    shares = squares / squares.sum()
    np.testing.assert_allclose(found.energies, shares, atol=1e-9)
    np.testing.assert_allclose(found.cumulative, np.cumsum(shares), atol=1e-9)
    trace = np.trace(matrix.T @ matrix)
    assert found.stable_rank == pytest.approx(trace / np.linalg.norm(matrix, 2) ** 2)
    covariance = matrix.T @ matrix
    assert found.participation_ratio == pytest.approx(trace**2 / np.sum(covariance**2))
    for fraction in (0.9, 0.95, 0.99, 1.0):
        kept = found.rank_keeping(fraction)
        assert found.cumulative[kept - 1] >= fraction - 1e-12
        assert kept == 1 or found.cumulative[kept - 2] < fraction
    other = spectrum(vectors, centred=not centred)
    assert not np.allclose(other.values, found.values)


def test_ranks_of_known_spectra():
    flat = Spectrum(np.ones(7))
    assert flat.measures() == pytest.approx(
        {
            "effective rank": 7,
            "energy rank": 7,
            "stable rank": 7,
            "participation ratio": 7,
            "rank keeping 90%": 7,
            "rank keeping 95%": 7,
            "rank keeping 99%": 7,
        }
    )
    single = Spectrum(np.array([3.0, 0.0, 0.0]))
    assert set(single.measures().values()) == {1.0}
    # Shares of values 2/3 and 1/3, of squares 4/5 and 1/5.
    two = Spectrum(np.array([2.0, 1.0]))
    assert two.effective_rank == pytest.approx((3 / 2) ** (2 / 3) * 3 ** (1 / 3))
    assert two.energy_rank == pytest.approx((5 / 4) ** (4 / 5) * 5 ** (1 / 5))
    assert two.stable_rank == pytest.approx(1.25)
    assert two.participation_ratio == pytest.approx(25 / 17)
    assert (two.rank_keeping(0.8), two.rank_keeping(0.81)) == (1, 2)
    with pytest.raises(ValueError, match="expected more than 0"):
        two.rank_keeping(0.0)
    scaled = Spectrum(two.values * 1e-200)
    assert scaled.measures() == pytest.approx(two.measures())


def test_directions_are_orthogonal_and_lead():
    for rows in (6, 40):
        vectors = made(documents=rows)[1]
        directions = leading_directions(vectors, centred=False)
        np.testing.assert_allclose(directions.T @ directions, np.eye(16), atol=1e-12)
        energies = ((vectors @ directions) ** 2).sum(axis=0)
        np.testing.assert_allclose(
            np.sqrt(energies)[: min(rows, 16)],
            np.linalg.svd(vectors.astype(np.float64), compute_uv=False),
            rtol=1e-5,
        )
        again = leading_directions(vectors[::-1], centred=False)
        most = min(rows, 16) - 1
        np.testing.assert_allclose(again[:, :most], directions[:, :most], atol=1e-6)


def test_the_gap_between_modalities():
    asked, held, _ = made()
    distance, cosine = modality_gap(asked, held)
    a, b = asked.mean(axis=0), held.mean(axis=0)
    assert distance == pytest.approx(np.linalg.norm(a - b), rel=1e-5)
    assert cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5)
    assert modality_gap(held, held) == pytest.approx((0, 1))
    assert modality_gap(asked + np.float32(0.3), held)[0] > distance + 0.5


def test_views_keep_what_they_say():
    asked, held, judgements = made()
    shown = views(asked, held, seeds=2)
    results = measure_sizes(shown, judgements, sizes=[4, 16])
    found = {(r.kind, r.size, r.seed): r for r in results}
    assert len(found) == 2 * (5 + 2)

    def plain(queries, documents):
        (one,) = evaluate_retrieval(queries, documents, judgements, dims=[queries.shape[1]])
        return one.per_query["ndcg@10"]

    def shares(key, queries, documents):
        np.testing.assert_allclose(found[key].per_query, plain(queries, documents), atol=1e-9)

    shares(("prefix", 4, None), asked[:, :4], held[:, :4])
    shares(("last coordinates", 4, None), asked[:, -4:], held[:, -4:])
    order = np.random.default_rng(1).permutation(16)[:4]
    shares(("random coordinates", 4, 1), asked[:, order], held[:, order])
    both = np.concatenate((asked, held))
    for kind, fitted in (("directions of documents", held), ("directions of both", both)):
        top = np.linalg.svd(fitted, full_matrices=False)[2][:4].T
        shares((kind, 4, None), asked @ top, held @ top)
    from sklearn.decomposition import PCA

    pca = PCA(4, svd_solver="full").fit(held)
    projected = (pca.transform(x).astype(np.float32) for x in (asked, held))
    shares(("PCA of documents", 4, None), *projected)
    # Whole vectors only rotated or shuffled score what they did; the sizes below differ.
    for kind, size, _ in found:
        if size == 16 and kind != "PCA of documents":
            assert found[kind, 16, _].mean == pytest.approx(found["prefix", 16, None].mean)
    means = {kind: r.mean for (kind, size, _), r in found.items() if size == 4}
    assert len({round(mean, 6) for mean in means.values()}) > 3
    assert means["directions of documents"] > means["prefix"]
    assert sizes_for(24, [6, 16]) == (1, 2, 4, 6, 8, 16, 24)


def test_blocks_add_and_harm():
    asked, held, judgements = made(width=16)
    # A last block of noise, half as large as all the rest.
    rng = np.random.default_rng(3)
    queries, documents = (
        np.concatenate((x, 0.25 * rng.normal(size=(len(x), 8)).astype(np.float32)), axis=1)
        for x in (asked, held)
    )
    blocks = measure_blocks(queries, documents, judgements, edges=[8, 16, 24])
    assert [block.name for block in blocks] == ["1-8", "9-16", "17-24"]
    for block in blocks:
        for values, keep in (
            (block.alone, np.arange(block.start, block.stop)),
            (block.without, np.delete(np.arange(24), slice(block.start, block.stop))),
            (block.full, np.arange(24)),
            (block.upto, np.arange(block.stop)),
        ):
            cut, held = queries[:, keep], documents[:, keep]
            (one,) = evaluate_retrieval(cut, held, judgements, dims=[len(keep)])
            np.testing.assert_array_equal(values, one.per_query["ndcg@10"])
    assert not blocks[0].before.any()
    np.testing.assert_array_equal(blocks[2].before, blocks[1].upto)
    assert np.mean(blocks[2].adds) < -0.1 < 0.1 < np.mean(blocks[0].adds)
    assert block_edges(1024) == tuple(range(128, 1025, 128))
    assert block_edges(6) == (1, 2, 3, 4, 5, 6)
    assert block_edges(10, 4) == (2, 5, 7, 10)
    with pytest.raises(ValueError, match="end with 24"):
        measure_blocks(queries, documents, judgements, edges=[8, 16])


@pytest.mark.parametrize("centred", [False, True])
def test_a_rotation_changes_prefixes_only(centred):
    asked, held, judgements = made()
    train = made(seed=0, queries=200, documents=200)[1]
    rotation = stored(fit_rotation(train, centred=centred), centred=centred)
    turned = (apply_rotation(asked, rotation), apply_rotation(held, rotation))
    np.testing.assert_allclose(turned[0] @ turned[1].T, asked @ held.T, atol=2e-6)
    short = [truncate(x, 4) for x in (*turned, asked, held)]
    assert np.abs(short[0] @ short[1].T - short[2] @ short[3].T).max() > 0.1
    energy = (turned[1] - (turned[1].mean(axis=0) if centred else 0)) ** 2
    plain = (held - (held.mean(axis=0) if centred else 0)) ** 2
    assert energy[:, :4].sum() / energy.sum() > plain[:, :4].sum() / plain.sum() + 0.2
    before, after = (
        evaluate_retrieval(queries, documents, judgements, dims=[4])[0].means["ndcg@10"]
        for queries, documents in ((asked, held), turned)
    )
    assert after > before
    with pytest.raises(MrlError, match="for vectors of width 16, and these have 4"):
        apply_rotation(held[:, :4], rotation)


def stored(matrix, **fields) -> Rotation:
    rotation = Rotation(
        matrix=matrix,
        head_digest="a" * 64,
        data="set",
        data_digest="b" * 64,
        fitted_on="documents",
        centred=True,
        rows=7,
        texts=text_keys(["ba", "ce"]),
    )
    return dataclasses.replace(rotation, **fields)


def test_a_rotation_is_stored_whole_and_for_one_head(tmp_path):
    assert read_rotation(tmp_path, head_digest="a" * 64) is None
    rotation = stored(fit_rotation(made()[1]), centred=False)
    path = save_rotation(tmp_path, rotation)
    assert [file.name for file in tmp_path.iterdir()] == [ROTATION_FILE]
    found = read_rotation(tmp_path, head_digest="a" * 64)
    assert found is not None
    np.testing.assert_array_equal(found.matrix, rotation.matrix)
    for field in dataclasses.fields(Rotation):
        if field.name not in ("matrix", "texts"):
            assert getattr(found, field.name) == getattr(rotation, field.name)
    assert found.seen(["ce", "di", "ce ", "ba"]) == 2
    assert found.seen([]) == 0
    with pytest.raises(MrlError, match="another model: it was fitted for the head aaaaaaaaaaaa"):
        read_rotation(tmp_path, head_digest="c" * 64)
    with pytest.raises(MrlError, match="exists already"):
        save_rotation(tmp_path, rotation)
    save_rotation(tmp_path, stored(rotation.matrix, rows=8), overwrite=True)
    again = read_rotation(tmp_path, head_digest="a" * 64)
    assert again is not None
    assert again.rows == 8
    whole = path.read_bytes()
    spoilt = {
        "cut": whole[:-9],
        "words": b"no rotation",
        "plain": save({"matrix": rotation.matrix}),
        "skewed": whole[:-4] + np.float32(3).tobytes(),
    }
    for content in spoilt.values():
        path.write_bytes(content)
        with pytest.raises(MrlError, match="cannot be read as a rotation"):
            read_rotation(tmp_path, head_digest="a" * 64)
    with pytest.raises(MrlError, match="could not be written"):
        save_rotation(tmp_path / "nowhere", rotation)


def test_what_has_no_spectrum():
    asked, held, _ = made()
    spoilt = held.copy()
    spoilt[5, 2] = np.nan
    for measure in (
        lambda x: spectrum(x, centred=False),
        lambda x: fit_rotation(x),
        lambda x: views(asked, x),
        lambda x: modality_gap(x, asked),
    ):
        with pytest.raises(MrlError, match=r"the vector of \w+ 5 is not finite"):
            measure(spoilt)
        with pytest.raises(MrlError, match="Check that the set is not empty"):
            measure(held[:0])
    with pytest.raises(MrlError, match="the 3 vectors are all alike"):
        spectrum(np.repeat(held[:1], 3, axis=0), centred=True)
    with pytest.raises(MrlError, match="the dimension 32 is not of this model"):
        measure_sizes(views(asked, held, seeds=1), made()[2], sizes=[32])
