"""The metadata of a model card: what the hub searches, filters and tabulates by."""

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mrl_jax.core.arguments import checked
from mrl_jax.data.sets.fleurs import HUB_ID as FLEURS_HUB_ID
from mrl_jax.data.sets.named_sets import KALLAAMA_HUB_ID
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import metric_title
from mrl_jax.metrics.ties import METRICS
from mrl_jax.publishing.provenance import Evaluation, Provenance, public_name

LIBRARY = "mrl_jax"
TAGS = ("speech", "retrieval", "matryoshka", "embeddings", "jax", "flax")
HUB_IDS = {"fleurs": FLEURS_HUB_ID, "kallaama": KALLAAMA_HUB_ID}
"""Sets by name: the first word of the name, and the data set on the hub."""
_CUT = re.compile(rf"({'|'.join(METRICS)})@\d+")
_FLEURS = re.compile(r"fleurs:(?P<source>[a-z]{2,3})-(?P<target>[a-z]{2,3})\b.*")
CLASSIFICATION = {"accuracy": "accuracy", "macro F1": "f1"}
"""Metrics of intents, and what the hub calls them."""


@checked
def retrieval_scores(evaluation: Evaluation) -> list[Record]:
    """The scores of `mrl-jax eval retrieval`: a metric at a dimension each."""
    return [
        one
        for one in evaluation.records
        if _CUT.fullmatch(one.metric) and {"ties", "relevance"} <= set(one.setting)
    ]


@checked
def intent_scores(evaluation: Evaluation) -> list[Record]:
    """The scores of `mrl-jax eval intent`: a metric at a dimension, method and number of examples
    each.
    """
    return [
        one
        for one in evaluation.records
        if one.metric in CLASSIFICATION and {"shots", "method"} <= set(one.setting)
    ]


@checked
def card_data(
    model_name: str, known: Provenance, *, licence: str | None, languages: Sequence[str]
) -> ModelCardData:
    """The metadata.

    Args:
        model_name: on the hub, without its owner.
        known: what is on record.
        licence: its identifier, "apache-2.0" for one; None where none is given.
        languages: codes; those of the sets by name are added.
    """
    sets = [public_name(one.source.data) for one in known.evaluations]
    trained_on = public_name(str(_train_data(known) or ""))
    names = dict.fromkeys(HUB_IDS.get(name.partition(":")[0]) for name in (*sets, trained_on))
    bases = (one.hub_id for one in known.towers.values())
    fields: dict[str, Any] = {
        "language": list(dict.fromkeys([*languages, *_languages(sets)])),
        "license": licence,
        "base_model": list(dict.fromkeys(base for base in bases if base)),
        "datasets": [name for name in names if name],
        "tags": list(TAGS),
        "eval_results": [row for one in known.evaluations for row in _eval_results(one)],
    }
    return ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="feature-extraction",
        model_name=model_name,
        **{name: value for name, value in fields.items() if value},
    )


def _train_data(known: Provenance) -> Any:
    run = known.run or {}
    return run["data"].get("train") if isinstance(run.get("data"), dict) else None


def _languages(sets: Sequence[str]) -> list[str]:
    matches = [match for name in sets if (match := _FLEURS.fullmatch(name))]
    return [match[side] for match in matches for side in ("source", "target")]


def _eval_results(evaluation: Evaluation) -> list[EvalResult]:
    name = public_name(evaluation.source.data)
    word, _, config = name.partition(":")
    known: dict[str, Any] = {
        "dataset_type": HUB_IDS.get(word, name),
        "dataset_name": name,
        "dataset_config": config if word in HUB_IDS and config else None,
        "dataset_args": {"sha256": evaluation.source.data_digest},
    }
    rows = [
        EvalResult(
            task_type="retrieval",
            task_name="Retrieval",
            metric_type=one.metric.replace("@", "_at_"),
            metric_name=f"{metric_title(one.metric)}, {one.dim} coordinates",
            metric_value=one.value,
            metric_args=_arguments(one),
            **known,
        )
        for one in retrieval_scores(evaluation)
    ]
    for one in intent_scores(evaluation):
        shots, method = one.setting["shots"], one.setting["method"]
        title = f"{one.metric}, {one.dim} coordinates, {method}, {shots} examples a class"
        rows.append(
            EvalResult(
                task_type="classification",
                task_name="Classification of intents",
                metric_type=CLASSIFICATION[one.metric],
                metric_name=title,
                metric_value=one.value,
                metric_args=_arguments(one),
                **known,
            )
        )
    return rows


def _arguments(record: Record) -> dict[str, Any]:
    """The dimension, the number of items, and the interval where there is one."""
    arguments: dict[str, Any] = {"dim": record.dim, "n": record.n}
    if record.low is not None and record.high is not None:
        arguments["confidence_interval_95"] = [record.low, record.high]
    return arguments
