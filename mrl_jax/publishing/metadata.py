"""The metadata of a model card: what the hub searches, filters and tabulates by."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mrl_jax.core.arguments import checked
from mrl_jax.data.sets.fleurs import HUB_ID as FLEURS_HUB_ID
from mrl_jax.data.sets.named_sets import FLEURS_SPLITS, KALLAAMA_HUB_ID
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import metric_title
from mrl_jax.metrics.ties import METRICS
from mrl_jax.publishing.provenance import Evaluation, Provenance, public_name

LIBRARY = "mrl_jax"
TAGS = ("speech", "retrieval", "matryoshka", "embeddings", "jax", "flax")
HUB_IDS = {"fleurs": FLEURS_HUB_ID, "kallaama": KALLAAMA_HUB_ID}
"""Sets by name: the first word of the name, and the data set on the hub."""
_NO_TYPE = re.compile(r"[^\w.-]+", re.ASCII)
"""What the hub refuses in the type of a data set that is none of its own."""
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
        "eval_results": _apart([row for one in known.evaluations for row in _eval_results(one)]),
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


def _apart(rows: Sequence[EvalResult]) -> list[EvalResult]:
    """Rows of which those of different data are of different types: the hub puts all of one type,
    config and split together.
    """
    digests: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in rows:
        digests[row.unique_identifier].add((row.dataset_args or {})["sha256"])
    for row in [row for row in rows if len(digests[row.unique_identifier]) > 1]:
        row.dataset_type += f"-{(row.dataset_args or {})['sha256'][:8]}"
    return list(rows)


def _data_set(evaluation: Evaluation) -> dict[str, Any]:
    """The set as an `EvalResult` names it."""
    name = public_name(evaluation.source.data)
    word, *words = name.split(":")
    fields: dict[str, Any] = {"dataset_type": _NO_TYPE.sub("-", name), "dataset_name": name}
    settings = evaluation.records[0].setting if evaluation.records else {}
    fields["dataset_split"] = settings.get("split")
    if word in HUB_IDS:
        config = ":".join(one for one in words if one not in FLEURS_SPLITS)
        fields |= {"dataset_type": HUB_IDS[word], "dataset_config": config or None}
    if word == "fleurs":
        splits = [one for one in words if one in FLEURS_SPLITS]
        fields["dataset_split"] = (*splits, "test")[0]
    return fields | {"dataset_args": {"sha256": evaluation.source.data_digest}}


def _eval_results(evaluation: Evaluation) -> list[EvalResult]:
    known = _data_set(evaluation)
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
        if math.isfinite(one.value)
    ]
    for one in filter(lambda one: math.isfinite(one.value), intent_scores(evaluation)):
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
