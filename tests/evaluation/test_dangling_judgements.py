"""Judged documents that the corpus does not have: they count, as in trec_eval."""

import numpy as np
import pytest

from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval

pytrec_eval = pytest.importorskip("pytrec_eval")
MEASURES = {"ndcg_cut.1,5,10", "success.1,5,10", "recall.1,5,10", "map_cut.1,5,10"}
TREC = {"ndcg": "ndcg_cut", "accuracy": "success", "map": "map_cut", "recall": "recall"}


def world(seed: int, documents: int, queries: int):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (queries, documents)).astype(np.float32)
    scores[:, 0] += 1
    ids = [f"d{number}" for number in rng.permutation(documents)]
    names = [f"q{number}" for number in range(queries)]
    absent = [f"x{number}" for number in range(documents)]
    qrels = {}
    for name in names:
        chosen = rng.choice(ids + absent, int(rng.integers(1, 9)), replace=False)
        qrels[name] = {str(key): int(rng.integers(-2, 4)) for key in chosen}
    return scores, ids, names, qrels


@pytest.mark.parametrize("seed", range(4))
def test_dangling_and_negative_judgements_as_trec_eval(seed):
    scores, ids, names, qrels = world(seed, 30, 120)
    clipped = {q: {d: max(grade, 0) for d, grade in of.items()} for q, of in qrels.items()}
    judgements = Judgements(names, ids, clipped)
    axes = np.eye(len(ids), dtype=np.float32)
    (result,) = evaluate_retrieval(scores, axes, judgements, dims=[len(ids)])
    run = {
        name: {key: float(score) for key, score in zip(ids, row, strict=True)}
        for name, row in zip(names, scores, strict=True)
    }
    # (Given negative grades it reads outside its memory.)
    theirs = pytrec_eval.RelevanceEvaluator(clipped, MEASURES).evaluate(run)
    judged = [names[row] for row in judgements.judged]
    only_absent = [q for q in judged if not {d for d, g in clipped[q].items() if g} & set(ids)]
    assert only_absent
    for metric, trec in TREC.items():
        for k in (1, 5, 10):
            expected = [theirs[name][f"{trec}_{k}"] for name in judged]
            np.testing.assert_allclose(result.per_query[f"{metric}@{k}"], expected, atol=1e-9)
    # Without the absent documents recall is another.
    there = {q: {d: g for d, g in of.items() if d in ids} for q, of in clipped.items()}
    (other,) = evaluate_retrieval(scores, axes, Judgements(names, ids, there), dims=[len(ids)])
    assert other.means["recall@10"] > result.means["recall@10"] + 0.1


def test_chance_counts_what_can_be_retrieved():
    """Against the mean over many random orders."""
    qrels = {"q": {"d0": 2, "d1": 1, "x": 3}}
    ids = [f"d{number}" for number in range(12)]
    chance = Judgements(["q"], ids, qrels).chance(5)
    rng = np.random.default_rng(0)
    scores = rng.random((20_000, len(ids))).astype(np.float32)
    names = [f"q{number}" for number in range(len(scores))]
    many = Judgements(names, ids, dict.fromkeys(names, qrels["q"]))
    axes = np.eye(len(ids), dtype=np.float32)
    (result,) = evaluate_retrieval(scores, axes, many, dims=[len(ids)], ks=[5])
    assert result.means["ndcg@5"] == pytest.approx(chance, abs=0.005)
    assert Judgements(["q"], ids, {"q": {"d0": 2, "d1": 1}}).chance(5) > chance + 0.1
