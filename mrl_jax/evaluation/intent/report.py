"""`mrl-jax eval intent`: what people want, from label texts alone and from a few examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.checkpoints.models import ModelInfo
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.hub import shown_model
from mrl_jax.core.paths import referenced_path
from mrl_jax.data.audio.decode import load_each
from mrl_jax.data.sets.digests import digest_intent_set
from mrl_jax.data.sets.intent_set import (
    LABELS_FILE,
    IntentExample,
    IntentLabel,
    labels_of,
    load_intent_audio,
    read_intent_labels,
)
from mrl_jax.data.sets.named_sets import load_intent_set
from mrl_jax.data.text.prompts import query_prompt
from mrl_jax.evaluation.encoded_set import chosen_dims
from mrl_jax.evaluation.intent import figures, measure
from mrl_jax.evaluation.intent.classifiers import CLASSIFIERS
from mrl_jax.evaluation.intent.measure import (
    CENTROID,
    FEATURES,
    NAME,
    IntentResult,
    IntentVectors,
)
from mrl_jax.evaluation.intent.options import IntentOptions
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile, Table
from mrl_jax.evaluation.report.records import Source, write_jsonl
from mrl_jax.evaluation.report.statistics import clusters_by
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import Vectors, placed
from mrl_jax.metrics.intervals import Clusters
from mrl_jax.models.fusion import FusionModel

SUMMARY = """{test} {kind} test examples of {labels} labels, model of step {step}, each encoded
once. Prompt of the examples: {prompt}.

0 shots: the label whose text is nearest; label texts are embedded as documents, as
"{example}".{centroid}{learnt}

F1 is a mean over the labels that are true or predicted somewhere, as in scikit-learn.
Intervals are from resampling test examples{clusters}; that of macro F1 is linearised."""
CENTROID_SUMMARY = """ `label centroid`: the label whose texts (name and paraphrases, up to {most})
are nearest in the mean."""
LEARNT = """ More shots: a classifier of {features}, with exactly so many training examples
of every label, drawn {seeds} times; ± is the standard deviation over draws."""
FEATURE_TEXTS = {
    "pooled": "frozen unit prefixes",
    "pooled+tokens": "frozen unit prefixes, with prefixes of the same width of means over tokens "
    "beside them (what the text tower reads, its first layer, and its last hidden states)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentTask:
    """What is classified, and into which labels.

    Attributes:
        spoken: whether the examples are recordings.
        classes, label_texts: names of all labels, and what they are embedded as, the first
            text of each being its name in words.
    """

    spoken: bool
    train: Sequence[IntentExample]
    test: Sequence[IntentExample]
    classes: Sequence[str]
    label_texts: Sequence[Sequence[str]]


def report_intent(
    options: IntentOptions, *, label_texts: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, predictions.jsonl (one
    line a test example, dimension, number of shots and method) and figures.

    Args:
        options: of the command.
        label_texts: words for labels, the name first; by default those of the set's
            `labels.jsonl`, those of the column `label_text` where there are no others, and
            names without underscores where there are none.

    Raises:
        MrlError: the model or the set cannot be used; a label that is said to be unseen and was
            used to train a tower; a label with fewer training examples than shots; a dim above
            the width; `out` exists.
    """
    require("sklearn", by="a report of intents")
    embedder = Embedder.load(options.model, max_seconds=options.max_seconds, verify=options.verify)
    examples = load_intent_set(options.data)
    labels = read_intent_labels(options.data)
    dims = chosen_dims(embedder, options.dims)
    given = {name: label.texts for name, label in labels.items() if label.texts}
    task = _task(options, examples, {**given, **(label_texts or {})})
    _check_unseen(options.model, embedder.info, labels)
    if options.features != FEATURES[0] and not isinstance(embedder.model, FusionModel):
        problem = "is a dual encoder, whose speech has no tokens in the text tower"
        raise MrlError(problem, where=options.model, hint="pass --features pooled")
    with report_folder(options, options.model) as staging:
        results = measure.measure_intents(
            encode_intents(embedder, task, options),
            classes=task.classes,
            dims=dims,
            shots=options.shots,
            seeds=options.seeds,
            classifiers=options.classifiers,
        )
        files, tables = _confusions(staging, results)
        test = task.test
        clusters = clusters_by(
            [e.id for e in test], [e.text for e in test], [e.speaker for e in test]
        )
        write_jsonl(staging / "predictions.jsonl", _predictions(test, results))
        return write_report(
            staging,
            title=f"Intents: {options.set_name}",
            summary=_summary(options, task, embedder.info.step, clusters),
            records=figures.intent_records(results, clusters),
            source=Source(
                data=str(options.data),
                data_digest=digest_intent_set(examples, given),
                model=shown_model(options.model),
                model_digest=embedder.info.digest,
                commit=library_commit(),
            ),
            tables={"Scores": figures.intent_table(results, clusters), **tables},
            figures=files,
        )


def _summary(options: IntentOptions, task: IntentTask, step: int, clusters: Clusters) -> str:
    most = max(map(len, task.label_texts))
    learnt = ""
    if max(options.shots):
        features = FEATURE_TEXTS[options.features]
        learnt = LEARNT.format(features=features, seeds=options.seeds)
        learnt += "".join(
            f"\n\n`{name}`: {CLASSIFIERS[name].description}." for name in options.classifiers
        )
    return SUMMARY.format(
        test=len(task.test),
        kind="spoken" if task.spoken else "written",
        labels=len(task.classes),
        step=step,
        prompt="none" if options.prompt is None else f'"{options.prompt}"',
        example=task.label_texts[0][0],
        centroid=CENTROID_SUMMARY.format(most=most) if most > 1 and 0 in options.shots else "",
        learnt=learnt,
        clusters=" by their words and speakers" if clusters.speakers else " by their words",
    )


def _check_unseen(model: Path, info: ModelInfo, labels: Mapping[str, IntentLabel]) -> None:
    """Refuse labels that are said to be unseen and that a training of a tower used."""
    unseen = {name for name, label in labels.items() if label.unseen}
    for tower in (info.speech, info.text):
        folder = referenced_path(model, tower.path)
        if used := sorted(unseen & set(read_info(folder).labels)):
            more = f" and {len(used) - 1} more" if len(used) > 1 else ""
            raise MrlError(
                f"a training of the tower used the label {used[0]!r}{more}, and the set says that "
                f"it is unseen",
                where=folder,
                hint=f"measure another model, or take `unseen` out of {LABELS_FILE}",
            )


def _task(
    options: IntentOptions,
    examples: Sequence[IntentExample],
    label_texts: Mapping[str, Sequence[str]],
) -> IntentTask:
    """The set's splits and labels, checked against the options."""
    if options.seeds < 1:
        raise MrlError(f"{options.seeds}, expected 1 or more", where="--seeds")
    if "{}" not in options.label_format:
        raise MrlError(
            f"{options.label_format!r} has no place for the label",
            where="--label-format",
            hint="write {} where the label's text belongs",
        )
    train, test = ([e for e in examples if e.split == split] for split in ("train", "test"))
    if not test:
        splits = ", ".join(sorted({example.split for example in examples}))
        raise MrlError(
            f"has no example of the split 'test', only of {splits}",
            where=options.data,
            hint="name the split of the examples that are measured 'test'",
        )
    classes = labels_of([*test, *train])
    measure.check_shots([example.label for example in train], classes, options.shots)
    spoken = sum(example.audio is not None for example in examples)
    if spoken < len(examples) and not all(example.text is not None for example in examples):
        raise MrlError(
            f"{spoken} of {len(examples)} examples are spoken, and the others only written",
            where=options.data,
            hint="measure them as two sets",
        )
    column = {e.label: (e.label_text,) for e in examples if e.label_text is not None}
    words = [
        label_texts.get(name) or column.get(name) or (measure.label_text(name),) for name in classes
    ]
    return IntentTask(
        spoken=spoken == len(examples),
        train=train,
        test=test,
        classes=classes,
        label_texts=[[options.label_format.replace("{}", t) for t in texts] for texts in words],
    )


def encode_intents(embedder: Embedder, task: IntentTask, options: IntentOptions) -> IntentVectors:
    """Embed test examples, the training examples that some draw takes, and label texts."""
    labels, rows = [example.label for example in task.train], np.zeros(0, np.int64)
    if most := max(options.shots):  # The draws of fewer shots are parts of these.
        known = np.asarray([task.classes.index(label) for label in labels], np.int64)
        seeds, count = range(options.seeds), len(task.classes)
        rows = np.unique([measure.draw_shots(known, count, most, seed) for seed in seeds])
    wanted = [*task.test, *(task.train[row] for row in rows.tolist())]
    vectors, tokens = _encode(embedder, task.spoken, wanted, options)
    count, total = len(task.test), len(task.train)
    train_tokens = None
    if tokens is not None:
        train_tokens = np.zeros((total, *tokens.shape[1:]), np.float32)
        train_tokens[rows] = tokens[count:]
    return IntentVectors(
        test=vectors[:count],
        truth=[example.label for example in task.test],
        train=placed(vectors[count:], rows, total) if len(rows) else None,
        train_labels=labels,
        labels=_label_vectors(embedder, task.label_texts) if 0 in options.shots else {},
        test_tokens=None if tokens is None else tokens[:count],
        train_tokens=train_tokens,
    )


def _encode(
    embedder: Embedder, spoken: bool, wanted: Sequence[IntentExample], options: IntentOptions
) -> tuple[Vectors, HostArray | None]:
    """Vectors of the examples, and means over tokens [N, K, E] where the options ask for them."""
    encoder, prompt = embedder.encoder, options.prompt
    pooled = options.features == FEATURES[0]
    if prompt is not None and prompt in embedder.info.prompts:
        prompt = query_prompt(embedder.info.prompts[prompt])
    if spoken:
        rate = embedder.model.speech.config.sample_rate
        encode = encoder.speech if pooled else encoder.speech_features
        vectors: Any = encode(
            load_each(lambda example: load_intent_audio(example, rate), wanted),
            prompts=None if prompt is None else [prompt] * len(wanted),
            names=[f"example {example.id}" for example in wanted],
            progress="examples",
        )
    else:
        texts = [f"{prompt or ''}{example.text}" for example in wanted]
        encode = encoder.text if pooled else encoder.text_features
        vectors = encode(texts, progress="examples")
    return (vectors, None) if pooled else (vectors[:, 0], vectors[:, 1:])


def _label_vectors(embedder: Embedder, texts: Sequence[Sequence[str]]) -> dict[str, HostArray]:
    """Vectors of the labels' names and, where some label has more texts, their centroids."""
    vectors = embedder.encoder.text([text for some in texts for text in some], progress="labels")
    ends = np.cumsum([len(some) for some in texts])
    groups = np.split(vectors, ends[:-1])
    found = {NAME: np.stack([group[0] for group in groups])}
    if len(vectors) > len(texts):
        found[CENTROID] = np.stack([group.mean(axis=0) for group in groups])
    return found


def _confusions(
    staging: Path, results: Sequence[IntentResult]
) -> tuple[list[FigureFile], dict[str, Table]]:
    """Figures, and tables of confusions, at the widest dim with least and most shots."""
    figures.plot_shots(staging / "shots.png", results)
    files = [FigureFile("shots.png", "Accuracy and macro F1 against training examples a label")]
    tables, widest = {}, max(result.dim for result in results)
    ends = {min(r.shots for r in results), max(r.shots for r in results)}
    shown = [r for r in results if r.dim == widest and r.shots in ends]
    for one in sorted(shown, key=lambda result: result.shots):
        name = f"confusion-{one.shots}-shot-{one.method.replace(' ', '-')}.png"
        figures.plot_confusion(staging / name, one)
        which = f"{one.shots} shots, {one.method}, first {one.dim} coordinates"
        files.append(FigureFile(name, f"What labels are taken for, in per cent: {which}"))
        tables[f"Most confused: {which}"] = figures.confusion_table(one)
    return files, tables


def _predictions(
    test: Sequence[IntentExample], results: Sequence[IntentResult]
) -> list[dict[str, object]]:
    return [
        {
            "id": example.id,
            "dim": result.dim,
            "shots": result.shots,
            "method": result.method,
            "features": result.features,
            "label": example.label,
            "predicted": [result.classes[i] for i in result.predicted[:, place]],
        }
        for result in results
        for place, example in enumerate(test)
    ]
