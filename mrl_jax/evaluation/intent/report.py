"""`mrl-jax eval intent`: what people want, from label texts alone and from a few examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.data.sets.digests import digest_intent_set
from mrl_jax.data.sets.intent_set import IntentExample, labels_of, load_intent_audio
from mrl_jax.data.sets.named_sets import load_intent_set
from mrl_jax.data.text.prompts import query_prompt
from mrl_jax.evaluation.encoded_set import chosen_dims
from mrl_jax.evaluation.intent import figures, measure
from mrl_jax.evaluation.intent.measure import PENALTY, IntentResult, IntentVectors
from mrl_jax.evaluation.intent.options import IntentOptions
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile, Table
from mrl_jax.evaluation.report.records import Source, write_jsonl
from mrl_jax.evaluation.report.statistics import clusters_by
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import placed

SUMMARY = """{test} {kind} test examples of {labels} labels, model of step {step}, each encoded
once. Prompt of the examples: {prompt}.

0 shots: the label whose text is nearest; label texts are embedded as documents, as
"{example}".{learnt}

F1 is a mean over the labels that are true or predicted somewhere, as in scikit-learn. The
interval of the accuracy is from resampling test examples{clusters}."""
LEARNT = """ More shots: logistic regression of scikit-learn (C = {penalty:g}) on frozen unit
prefixes, with exactly so many training examples of every label, drawn {seeds} times; ± is the
standard deviation over draws."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntentTask:
    """What is classified, and into which labels.

    Attributes:
        spoken: whether the examples are recordings.
        classes, label_texts: names of all labels, and what they are embedded as.
    """

    spoken: bool
    train: Sequence[IntentExample]
    test: Sequence[IntentExample]
    classes: Sequence[str]
    label_texts: Sequence[str]


def report_intent(
    options: IntentOptions,
    *,
    label_texts: Mapping[str, str] | None = None,
    penalty: float = PENALTY,
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, predictions.jsonl (one
    line a test example, dimension and number of shots) and figures.

    Args:
        options: of the command.
        label_texts: words for labels; by default those of the column `label_text` where
            `data` is one table that has it, and names without underscores otherwise.
        penalty: scikit-learn's C.

    Raises:
        MrlError: the model or the set cannot be used; a label with fewer training examples
            than shots; a dim above the width; `out` exists.
    """
    require("sklearn", by="a report of intents")
    embedder, examples = Embedder.load(options.model), load_intent_set(options.data)
    dims = chosen_dims(embedder, options.dims)
    task = _task(options, examples, label_texts)
    with report_folder(options, options.model) as staging:
        results = measure.measure_intents(
            encode_intents(embedder, task, options),
            classes=task.classes,
            dims=dims,
            shots=options.shots,
            seeds=options.seeds,
            penalty=penalty,
        )
        files, tables = _confusions(staging, results)
        test = task.test
        clusters = clusters_by(
            [e.id for e in test], [e.text for e in test], [e.speaker for e in test]
        )
        write_jsonl(staging / "predictions.jsonl", _predictions(test, results))
        ways = " by their words and speakers" if clusters.speakers else " by their words"
        learnt = LEARNT.format(penalty=penalty, seeds=options.seeds) if max(options.shots) else ""
        return write_report(
            staging,
            title=f"Intents: {options.set_name}",
            summary=SUMMARY.format(
                test=len(test),
                kind="spoken" if task.spoken else "written",
                labels=len(task.classes),
                step=embedder.info.step,
                prompt="none" if options.prompt is None else f'"{options.prompt}"',
                example=task.label_texts[0],
                learnt=learnt,
                clusters=ways,
            ),
            records=figures.intent_records(results, penalty, clusters),
            source=Source(
                data=str(options.data),
                data_digest=digest_intent_set(examples),
                model=str(options.model),
                model_digest=embedder.info.digest,
                commit=library_commit(),
            ),
            tables={"Scores": figures.intent_table(results, clusters), **tables},
            figures=files,
        )


def _task(
    options: IntentOptions, examples: Sequence[IntentExample], label_texts: Mapping[str, str] | None
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
    if label_texts is None:
        label_texts = {e.label: e.label_text for e in examples if e.label_text is not None}
    words = [measure.label_text(name, label_texts) for name in classes]
    return IntentTask(
        spoken=spoken == len(examples),
        train=train,
        test=test,
        classes=classes,
        label_texts=[options.label_format.replace("{}", text) for text in words],
    )


def encode_intents(embedder: Embedder, task: IntentTask, options: IntentOptions) -> IntentVectors:
    """Embed test examples, the training examples that some draw takes, and label texts."""
    labels, rows = [example.label for example in task.train], np.zeros(0, np.int64)
    if most := max(options.shots):  # The draws of fewer shots are parts of these.
        known = np.asarray([task.classes.index(label) for label in labels], np.int64)
        seeds, count = range(options.seeds), len(task.classes)
        rows = np.unique([measure.draw_shots(known, count, most, seed) for seed in seeds])
    wanted = [*task.test, *(task.train[row] for row in rows.tolist())]
    prompt = options.prompt
    if prompt is not None and prompt in embedder.info.prompts:
        prompt = query_prompt(embedder.info.prompts[prompt])
    if task.spoken:
        rate = embedder.model.speech.config.sample_rate
        vectors = embedder.encoder.speech(
            [load_intent_audio(example, rate) for example in wanted],
            prompts=None if prompt is None else [prompt] * len(wanted),
            names=[f"example {example.id}" for example in wanted],
            progress="examples",
        )
    else:
        texts = [f"{prompt or ''}{example.text}" for example in wanted]
        vectors = embedder.encoder.text(texts, progress="examples")
    count = len(task.test)
    label_vectors = None
    if 0 in options.shots:
        label_vectors = embedder.encoder.text(task.label_texts, progress="labels")
    return IntentVectors(
        test=vectors[:count],
        truth=[example.label for example in task.test],
        train=placed(vectors[count:], rows, len(task.train)) if len(rows) else None,
        train_labels=labels,
        labels=label_vectors,
    )


def _confusions(
    staging: Path, results: Sequence[IntentResult]
) -> tuple[list[FigureFile], dict[str, Table]]:
    """Figures, and tables of confusions, at the widest dim with least and most shots."""
    figures.plot_shots(staging / "shots.png", results)
    files = [FigureFile("shots.png", "Accuracy and macro F1 against training examples a label")]
    tables, widest = {}, max(result.dim for result in results)
    ends = sorted((r for r in results if r.dim == widest), key=lambda result: result.shots)
    for one in ends[:1] + ends[1:][-1:]:
        name = f"confusion-{one.shots}-shot.png"
        figures.plot_confusion(staging / name, one)
        which = f"{one.shots} shots, first {one.dim} coordinates"
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
            "label": example.label,
            "predicted": [result.classes[i] for i in result.predicted[:, place]],
        }
        for result in results
        for place, example in enumerate(test)
    ]
