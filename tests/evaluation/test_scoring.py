"""Retrieval scores against trec_eval and sentence-transformers, ties included."""

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.scoring import Judgements, evaluate_retrieval
from mrl_jax.metrics.ties import METRICS

MEASURES = {"ndcg_cut.1,5,10", "success.1,5,10", "recall.1,5,10", "map_cut.1,5,10", "recip_rank"}
TREC = {"ndcg": "ndcg_cut", "accuracy": "success", "map": "map_cut", "recall": "recall"}


def one_run(documents, queries, seed=0):
    """Queries whose products with a corpus of unit axes are any scores we like, with ties."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (queries, documents)).astype(np.float32)
    scores[:, 0] += 1  # No query is all zeros.
    # Ids whose order as words is not that of the corpus.
    ids = [f"d{number}" for number in rng.permutation(documents * 3)[:documents]]
    names = [f"q{query}" for query in range(queries)]
    qrels = {}
    for name in names[: max(queries - 1, 1)]:  # The last is not judged at all.
        chosen = rng.choice(documents, int(rng.integers(1, min(documents, 12) + 1)), replace=False)
        qrels[name] = {ids[i]: int(rng.integers(0, 4)) for i in chosen}
    qrels[names[0]][ids[0]] = 2
    return scores, ids, names, qrels


def evaluated(scores, ids, names, qrels, **options):
    axes = np.eye(len(ids), dtype=np.float32)
    judgements = Judgements(names, ids, qrels)
    (result,) = evaluate_retrieval(scores, axes, judgements, dims=[len(ids)], **options)
    return judgements, result


@pytest.mark.parametrize("documents", [2, 12, 40, 200])
def test_three_hundred_queries_as_trec_eval(documents):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    scores, ids, names, qrels = one_run(documents, 300, seed=documents)
    judgements, result = evaluated(scores, ids, names, qrels)
    run = {
        name: {key: float(score) for key, score in zip(ids, row, strict=True)}
        for name, row in zip(names, scores, strict=True)
    }
    theirs = pytrec_eval.RelevanceEvaluator(qrels, MEASURES).evaluate(run)
    judged = [name for name in names if any(qrels.get(name, {}).values())]
    assert [names[row] for row in judgements.judged] == judged
    assert len(judged) < 300
    for metric, trec in TREC.items():
        for k in (1, 5, 10):
            expected = [theirs[name][f"{trec}_{k}"] for name in judged]
            np.testing.assert_allclose(result.per_query[f"{metric}@{k}"], expected, atol=1e-9)
    ranks = np.array([theirs[name]["recip_rank"] for name in judged])
    np.testing.assert_allclose(
        result.per_query["mrr@10"], np.where(ranks >= 0.1, ranks, 0), atol=1e-9
    )
    # The other rule for ties gives other scores; both lie in the range over all orders.
    _, by_id = evaluated(scores, ids, names, qrels, ties="id")
    for metric in result.per_query:
        worst, expected, best = result.over_ties(metric)
        assert result.over_ties(metric) == pytest.approx(by_id.over_ties(metric), abs=1e-12)
        assert worst - 1e-12 <= expected <= best + 1e-12
        for one in (result, by_id):
            assert worst - 1e-12 <= one.means[metric] <= best + 1e-12
    assert np.any(by_id.per_query["ndcg@5"] != result.per_query["ndcg@5"])


@pytest.mark.filterwarnings("ignore")
def test_the_other_rule_for_ties_is_that_of_sentence_transformers():
    pytest.importorskip("torch")
    evaluation = pytest.importorskip("sentence_transformers.evaluation")
    for documents in (2, 12, 40):
        scores, ids, names, qrels = one_run(documents, 60)
        judgements, result = evaluated(scores, ids, names, qrels, ties="id")
        judgements, result = evaluated(scores, ids, names, judgements.binary().qrels, ties="id")
        for place, row in enumerate(judgements.judged):
            name = names[row]
            relevant = {key for key, grade in qrels[name].items() if grade > 0}
            evaluator = evaluation.InformationRetrievalEvaluator(
                {name: "a"},
                dict.fromkeys(ids, "b"),
                {name: relevant},
                accuracy_at_k=[1, 5, 10],
                precision_recall_at_k=[1, 5, 10],
                map_at_k=[1, 5, 10],
                ndcg_at_k=[1, 5, 10],
            )
            listed = [
                {"corpus_id": key, "score": float(score)}
                for key, score in zip(ids, scores[row], strict=True)
            ]
            theirs = evaluator.compute_metrics([listed])
            ours = {metric: values[place] for metric, values in result.per_query.items()}
            assert ours["mrr@10"] == pytest.approx(theirs["mrr@k"][10], abs=1e-9)
            for k in (1, 5, 10):
                assert ours[f"ndcg@{k}"] == pytest.approx(theirs["ndcg@k"][k], abs=1e-9)
                assert ours[f"accuracy@{k}"] == theirs["accuracy@k"][k]
                assert ours[f"recall@{k}"] == pytest.approx(theirs["recall@k"][k], abs=1e-9)
                # They divide by k where there are more relevant documents than that.
                scale = len(relevant) / min(k, len(relevant))
                assert ours[f"map@{k}"] * scale == pytest.approx(theirs["map@k"][k], abs=1e-9)


def test_ties_reach_beyond_the_list():
    # Six documents tie for the last of three ranks; two of them are relevant.
    scores = np.array([[3, 2, 1, 1, 1, 1, 1, 1, 0]], np.float32)
    ids = [f"d{i}" for i in range(9)]
    _, result = evaluated(scores, ids, ["q"], {"q": {"d0": 1, "d4": 2, "d7": 1}}, ks=[3])
    assert result.over_ties("recall@3") == pytest.approx((1 / 3, 4 / 9, 2 / 3))
    assert result.tied.tied.tolist() == [5]
    assert result.tied.beyond.max() == 2
    assert result.means["recall@3"] == pytest.approx(2 / 3)  # "d7" is the highest id of them.
    _, other = evaluated(scores, ids, ["q"], {"q": {"d0": 1, "d4": 2, "d7": 1}}, ks=[3], ties="id")
    assert other.means["recall@3"] == pytest.approx(1 / 3)
    assert set(result.per_query) == {f"{name}@3" for name in METRICS}


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
    with pytest.raises(MrlError, match=r"the dimension 4 is there twice"):
        evaluate_retrieval(vectors, vectors, good, dims=[4, 4])
    with pytest.raises(MrlError, match="no query has a relevant document"):
        evaluate_retrieval(vectors, vectors, Judgements(names, names, {"a": {"a": 0}}), dims=[4])
    spoilt = vectors.copy()
    spoilt[2, 1] = np.nan
    for pair, message in (((spoilt, vectors), "query 'c'"), ((vectors, spoilt), "document 'c'")):
        with pytest.raises(MrlError, match=f"the vector of {message} is not finite \\(1 of 4"):
            evaluate_retrieval(*pair, good, dims=[4])
    assert good.chance() == pytest.approx(np.mean(1 / np.log2(np.arange(2, 6))))
