"""Metrics of rankings, their ties and intervals, and error rates; imported when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_jax.metrics.error_rates import Comparison as Comparison
    from mrl_jax.metrics.error_rates import Errors as Errors
    from mrl_jax.metrics.error_rates import compare_transcripts as compare_transcripts
    from mrl_jax.metrics.error_rates import import_jiwer as import_jiwer
    from mrl_jax.metrics.intervals import Clusters as Clusters
    from mrl_jax.metrics.intervals import Interval as Interval
    from mrl_jax.metrics.intervals import PairedTest as PairedTest
    from mrl_jax.metrics.intervals import cluster_bootstrap as cluster_bootstrap
    from mrl_jax.metrics.intervals import cluster_bootstraps as cluster_bootstraps
    from mrl_jax.metrics.intervals import holm as holm
    from mrl_jax.metrics.intervals import paired_test as paired_test
    from mrl_jax.metrics.ranking import F1 as F1
    from mrl_jax.metrics.ranking import accuracy as accuracy
    from mrl_jax.metrics.ranking import average_precision as average_precision
    from mrl_jax.metrics.ranking import chance_ndcg as chance_ndcg
    from mrl_jax.metrics.ranking import check_k as check_k
    from mrl_jax.metrics.ranking import discounted as discounted
    from mrl_jax.metrics.ranking import discounts as discounts
    from mrl_jax.metrics.ranking import f1_scores as f1_scores
    from mrl_jax.metrics.ranking import ideal as ideal
    from mrl_jax.metrics.ranking import ndcg as ndcg
    from mrl_jax.metrics.ranking import over as over
    from mrl_jax.metrics.ranking import recall as recall
    from mrl_jax.metrics.ranking import reciprocal_rank as reciprocal_rank
    from mrl_jax.metrics.ranking import relevant as relevant
    from mrl_jax.metrics.ties import TiedRanking as TiedRanking

_HOMES = {
    "Clusters": "intervals",
    "Comparison": "error_rates",
    "Errors": "error_rates",
    "F1": "ranking",
    "Interval": "intervals",
    "PairedTest": "intervals",
    "TiedRanking": "ties",
    "accuracy": "ranking",
    "average_precision": "ranking",
    "chance_ndcg": "ranking",
    "check_k": "ranking",
    "cluster_bootstrap": "intervals",
    "cluster_bootstraps": "intervals",
    "compare_transcripts": "error_rates",
    "discounted": "ranking",
    "discounts": "ranking",
    "f1_scores": "ranking",
    "holm": "intervals",
    "ideal": "ranking",
    "import_jiwer": "error_rates",
    "ndcg": "ranking",
    "over": "ranking",
    "paired_test": "intervals",
    "recall": "ranking",
    "reciprocal_rank": "ranking",
    "relevant": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
