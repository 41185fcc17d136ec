"""Retrieval scores against trec_eval, ties included."""

import numpy as np
import pytest

from mrl_jax.errors import MrlError
from mrl_jax.evaluation.retrieval import Judgements, evaluate_retrieval

pytrec_eval = pytest.importorskip("pytrec_eval")
MEASURES = {"ndcg_cut_5,10", "success_1,5,10", "recip_rank"}


def one_run(seed):
    """Queries whose products with a corpus of unit axes are any scores we like, with ties."""
    rng = np.random.default_rng(seed)
    documents, queries = int(rng.choice([2, 7, 12, 40])), int(rng.choice([1, 5]))
    scores = rng.integers(0, 5, (queries, documents)).astype(np.float32)
    scores[:, 0] += 1  # No query is all zeros.
    # Ids whose order as words is not that of the corpus.
    ids = [f"d{number}" for number in rng.permutation(documents * 3)[:documents]]
    names = [f"q{query}" for query in range(queries)]
    qrels = {}
    for name in names[: max(queries - 1, 1)]:  # The last is often not judged at all.
        chosen = rng.choice(documents, int(rng.integers(1, min(documents, 12) + 1)), replace=False)
        qrels[name] = {ids[i]: int(rng.integers(0, 4)) for i in chosen}
    qrels[names[0]][ids[0]] = 2
    return scores, ids, names, qrels


@pytest.mark.parametrize("block", range(4))
def test_two_hundred_runs_as_trec_eval(block):
    untied = 0
    for seed in range(50 * block, 50 * block + 50):
        scores, ids, names, qrels = one_run(seed)
        judgements = Judgements(names, ids, qrels)
        width = len(ids)
        (result,) = evaluate_retrieval(
            scores, np.eye(width, dtype=np.float32), judgements, dims=[width]
        )
        run = {
            name: {key: float(score) for key, score in zip(ids, row, strict=True)}
            for name, row in zip(names, scores, strict=True)
        }
        theirs = pytrec_eval.RelevanceEvaluator(qrels, MEASURES).evaluate(run)
        judged = [name for name in names if any(qrels.get(name, {}).values())]
        assert [names[row] for row in judgements.judged] == judged
        for place, name in enumerate(judged):
            ours = {metric: values[place] for metric, values in result.per_query.items()}
            for k in (5, 10):
                assert ours[f"ndcg@{k}"] == pytest.approx(theirs[name][f"ndcg_cut_{k}"], abs=1e-9)
            for k in (1, 5, 10):
                assert ours[f"accuracy@{k}"] == theirs[name][f"success_{k}"]
            rank = theirs[name]["recip_rank"]
            assert ours["mrr@10"] == pytest.approx(rank if rank >= 0.1 else 0.0, abs=1e-9)
        # The other rule for ties gives other scores somewhere.
        mirrored = {key: "d" + "".join(chr(1000 - ord(c)) for c in key) for key in ids}
        other = Judgements(
            names,
            [mirrored[key] for key in ids],
            {q: {mirrored[key]: g for key, g in of.items()} for q, of in qrels.items()},
        )
        (turned,) = evaluate_retrieval(scores, np.eye(width, dtype=np.float32), other, dims=[width])
        untied += bool(np.any(turned.per_query["ndcg@5"] != result.per_query["ndcg@5"]))
    assert untied > 10


def test_every_prefix_is_normalised_again():
    rng = np.random.default_rng(0)
    queries, documents = (rng.normal(size=(n, 8)).astype(np.float32) for n in (3, 20))
    ids, names = [f"d{i:02}" for i in range(20)], ["a", "b", "c"]
    qrels = {name: {"d03": 1} for name in names}
    results = evaluate_retrieval(queries, documents, Judgements(names, ids, qrels), dims=[4, 8])
    assert [result.dim for result in results] == [4, 8]
    for result in results:
        a, b = (x[:, : result.dim].astype(np.float64) for x in (queries, documents))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        expected = np.argsort(-(a @ b.T), axis=1)[:, :10]
        np.testing.assert_array_equal(result.ranking, expected)
        np.testing.assert_allclose(
            result.scores, np.take_along_axis(a @ b.T, expected, axis=1), atol=1e-6
        )
        assert result.means["ndcg@10"] == np.mean(result.per_query["ndcg@10"])
    assert (results[0].ranking != results[1].ranking).any()


def test_what_cannot_be_evaluated():
    vectors = np.eye(4, dtype=np.float32)
    names = ["a", "b", "c", "d"]
    good = Judgements(names, names, {"a": {"a": 1}})
    with pytest.raises(MrlError, match=r"the dimension 5 is not of this model, expected 1 to 4"):
        evaluate_retrieval(vectors, vectors, good, dims=[4, 5])
    with pytest.raises(MrlError, match="no query has a relevant document"):
        evaluate_retrieval(vectors, vectors, Judgements(names, names, {"a": {"a": 0}}), dims=[4])
    assert good.chance() == pytest.approx(np.mean(1 / np.log2(np.arange(2, 6))))
