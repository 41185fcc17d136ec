"""Metrics of rankings, their ties and intervals, and error rates; imported when first used."""

from typing import TYPE_CHECKING

from mrl_jax.core.lazy import homes_of, lazy_getattr

if TYPE_CHECKING:
    from mrl_jax.metrics.error_rates import *  # noqa: F403
    from mrl_jax.metrics.intervals import *  # noqa: F403
    from mrl_jax.metrics.ranking import *  # noqa: F403
    from mrl_jax.metrics.ties import *  # noqa: F403

NAMES = {
    "error_rates": "Comparison Errors compare_transcripts import_jiwer",
    "intervals": "Clusters Interval PairedTest cluster_bootstrap cluster_bootstraps holm "
    "paired_test",
    "ranking": "F1 accuracy average_precision chance_ndcg check_k discounted discounts f1_scores "
    "ideal ndcg over recall reciprocal_rank relevant",
    "ties": "METRICS Metric TiedRanking",
}
__getattr__ = lazy_getattr(__name__, homes_of(__name__, NAMES))
