"""Margin pairs and hard negatives against plain loops over all pairs."""

import numpy as np
import pytest

from mrl_jax.curation.margin import hard_negatives, margin_pairs


def unit(rng, count, width=8):
    rows = rng.standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_pairs(first, second, k):
    """Every candidate's ratio, then the best one in turn of rows that are free."""
    cosines = first.astype(np.float64) @ second.T.astype(np.float64)
    forward = np.argsort(-cosines, axis=1)[:, :k]
    backward = np.argsort(-cosines, axis=0)[:k].T
    candidates = {(i, int(j)) for i, row in enumerate(forward) for j in row}
    candidates |= {(int(i), j) for j, row in enumerate(backward) for i in row}
    of_first = np.take_along_axis(cosines, forward, axis=1).mean(axis=1)
    of_second = np.take_along_axis(cosines.T, backward, axis=1).mean(axis=1)
    ratios = {(i, j): cosines[i, j] / ((of_first[i] + of_second[j]) / 2) for i, j in candidates}
    taken, used = [], set()
    for (i, j), ratio in sorted(ratios.items(), key=lambda item: -item[1]):
        if ("a", i) not in used and ("b", j) not in used:
            used |= {("a", i), ("b", j)}
            taken.append((i, j, ratio))
    return taken


@pytest.mark.parametrize("k", [2, 4, 100])  # With 1 all mutual pairs are tied.
def test_pairs_are_those_of_a_plain_loop(k):
    rng = np.random.default_rng(k)
    common = unit(rng, 1) * 3
    first, second = (unit(rng, size) + common for size in (20, 30))
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    found = margin_pairs(first, second, k=k)
    wanted = plain_pairs(first, second, k)
    assert [*zip(found.first.tolist(), found.second.tolist(), strict=True)] == [
        (i, j) for i, j, _ in wanted
    ]
    np.testing.assert_allclose(found.margins, [ratio for *_, ratio in wanted], atol=1e-5)
    assert len(set(found.first.tolist())) == len(found.first)
    direct = np.sum(first[found.first] * second[found.second], axis=1)
    np.testing.assert_allclose(found.cosines, direct, atol=1e-6)


def test_a_text_near_to_everything_is_near_to_nothing():
    rng = np.random.default_rng(0)
    queries = unit(rng, 12)
    documents = queries + 0.45 * unit(rng, 12)
    hub = queries.mean(axis=0) / np.linalg.norm(queries.mean(axis=0))
    documents = np.concatenate((documents, [hub])).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    found = margin_pairs(queries, documents, k=4)
    paired = dict(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert paired == {i: i for i in range(12)}
    assert found.margins.min() > 1


def test_one_side_may_be_empty():
    rng = np.random.default_rng(0)
    none = np.zeros((0, 8), np.float32)
    for first, second in ((none, unit(rng, 3)), (unit(rng, 3), none)):
        assert len(margin_pairs(first, second).first) == 0
    assert hard_negatives(none, []) == []


def test_negatives_are_the_nearest_of_another_identity():
    rng = np.random.default_rng(1)
    documents = unit(rng, 40, 4)
    identities = [f"d{i // 2}" for i in range(40)]
    found = hard_negatives(documents, identities, count=3, max_cosine=0.9)
    cosines = documents.astype(np.float64) @ documents.T.astype(np.float64)
    for row, own in enumerate(found):
        wanted, seen = [], set()
        for other in np.argsort(-cosines[row]):
            name = identities[other]
            if name != identities[row] and cosines[row, other] <= 0.9 and name not in seen:
                seen.add(name)
                wanted.append(int(other))
        assert own == wanted[:3]
    wider = hard_negatives(documents, identities, count=3, max_cosine=1.0)
    assert wider != found


def test_where_all_others_are_duplicates_there_are_no_negatives():
    same = np.tile(unit(np.random.default_rng(2), 1), (30, 1))
    assert hard_negatives(same, ["d"] * 30, count=2) == [[]] * 30
    apart = hard_negatives(same, [f"d{i}" for i in range(30)], count=2, max_cosine=1.0)
    assert apart[5] == [0, 1]
    assert hard_negatives(same, [f"d{i}" for i in range(30)], count=2) == [[]] * 30
