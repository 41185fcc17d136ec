"""`eval.py intent`: what people want, from label texts alone and from a few examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import check_apart
from mrl_jax.data.sets.digests import digest_intent_set
from mrl_jax.data.sets.intent_set import IntentExample, labels_of, load_intent_audio
from mrl_jax.data.sets.named_sets import load_intent_set
from mrl_jax.data.text.tokenizer import query_prompt
from mrl_jax.evaluation.encoded_set import chosen_dims, set_name
from mrl_jax.evaluation.intent.figures import (
    confusion_table,
    intent_records,
    intent_table,
    plot_confusion,
    plot_shots,
)
from mrl_jax.evaluation.intent.measure import (
    PENALTY,
    SHOTS,
    IntentResult,
    check_shots,
    draw_shots,
    import_classifier,
    label_text,
    measure_intents,
)
from mrl_jax.evaluation.report.folder import report_folder, source_of, write_report
from mrl_jax.evaluation.report.records import write_jsonl
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import Vectors, placed
from mrl_jax.metrics.intervals import Clusters

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
class IntentVectors:
    """What the model makes of a set, each example and label text embedded once.

    Attributes:
        test, truth: test examples and their labels.
        train, train_labels: training examples and their labels; None for 0 shots alone.
            Examples that no draw takes are not embedded, and are zeros.
        labels: texts of the classes, None where they are not asked for.
    """

    test: Vectors
    truth: list[str]
    train: Vectors | None
    train_labels: list[str]
    labels: Float32[HostArray, "L E"] | None


def report_intent(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    dims: Sequence[int] | None = None,
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    prompt: str | None = None,
    label_format: str = "{}",
    label_texts: Mapping[str, str] | None = None,
    penalty: float = PENALTY,
    overwrite: bool = False,
) -> str:
    """Measure, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, predictions.jsonl (one
    line a test example, dimension and number of shots) and pictures.

    Args:
        model, data, out: folders; `data` may be a table, or the name of a published set.
        dims: prefixes; those trained by default.
        shots: training examples a label; 0 is the nearest label text.
        seeds: draws of training examples.
        prompt: put before every example: the name of one of the model's tasks, or the words
            themselves; none by default.
        label_format: how a label's text is embedded; {} stands for it.
        label_texts: words for labels; by default those of the column `label_text` where
            `data` is one table that has it, and names without underscores otherwise.
        penalty: scikit-learn's C.
        overwrite: replace an earlier report.

    Raises:
        MrlError: the model or the set cannot be used; a label with fewer training examples
            than shots; a dim above the width; `out` exists.
    """
    embedder, examples = Embedder.load(model), load_intent_set(data)
    dims = chosen_dims(embedder, dims)
    shots = tuple(shots)
    if seeds < 1:
        raise MrlError(f"{seeds}, expected 1 or more", where="--seeds")
    if "{}" not in label_format:
        hint = "write {} where the label's text belongs"
        raise MrlError(
            f"{label_format!r} has no place for the label", where="--label-format", hint=hint
        )
    train = [example for example in examples if example.split == "train"]
    test = [example for example in examples if example.split == "test"]
    if not test:
        splits = ", ".join(sorted({example.split for example in examples}))
        raise MrlError(
            f"has no example of the split 'test', only of {splits}",
            where=data,
            hint="name the split of the examples that are measured 'test'",
        )
    classes = labels_of([*test, *train])
    check_shots([example.label for example in train], classes, shots)
    if max(shots):
        import_classifier()
    if label_texts is None:
        label_texts = {e.label: e.label_text for e in examples if e.label_text is not None}
    words = [label_format.replace("{}", label_text(name, label_texts)) for name in classes]
    check_apart(model, out)
    with report_folder(out, overwrite=overwrite) as staging:
        kind = _kind(examples, data)
        vectors = encode_intents(
            embedder, kind, train, test, classes, words, shots=shots, seeds=seeds, prompt=prompt
        )
        results = measure_intents(
            vectors.test,
            vectors.truth,
            vectors.labels,
            vectors.train,
            vectors.train_labels,
            classes=classes,
            dims=dims,
            shots=shots,
            seeds=seeds,
            penalty=penalty,
        )
        pictures, tables = _shown(staging, results)
        clusters = _clusters(test)
        table = intent_table(results, clusters)
        write_jsonl(staging / "predictions.jsonl", _predictions(test, results))
        learnt = LEARNT.format(penalty=penalty, seeds=seeds) if max(shots) else ""
        write_report(
            staging,
            title=f"Intents: {set_name(data)}",
            summary=SUMMARY.format(
                test=len(test),
                kind=kind,
                labels=len(classes),
                step=embedder.info.step,
                prompt="none" if prompt is None else f'"{prompt}"',
                example=words[0],
                learnt=learnt,
                clusters=" by their words and speakers" if clusters.speakers else " by their words",
            ),
            records=intent_records(results, penalty, clusters),
            source=source_of(embedder, model, data, digest_intent_set(examples)),
            tables={"Scores": table, **tables},
            pictures=pictures,
        )
    return table


def encode_intents(
    embedder: Embedder,
    kind: str,
    train: Sequence[IntentExample],
    test: Sequence[IntentExample],
    classes: Sequence[str],
    label_words: Sequence[str],
    *,
    shots: Sequence[int],
    seeds: int,
    prompt: str | None,
) -> IntentVectors:
    """Embed test examples, the training examples that some draw takes, and label texts.

    Args:
        embedder: the model.
        kind: "spoken" or "written".
        train, test: examples.
        classes, label_words: labels, and the texts they are embedded as.
        shots, seeds: see `report_intent`.
        prompt: see `report_intent`.
    """
    names = [example.label for example in train]
    rows = _drawn(names, classes, max(shots), seeds)
    wanted = [*test, *(train[row] for row in rows)]
    before = prompt
    if prompt is not None and prompt in embedder.info.prompts:
        before = query_prompt(embedder.info.prompts[prompt])
    if kind == "spoken":
        rate = embedder.model.speech.config.sample_rate
        vectors = embedder.encoder.speech(
            [load_intent_audio(example, rate) for example in wanted],
            prompts=None if before is None else [before] * len(wanted),
            names=[f"example {example.id}" for example in wanted],
            progress="examples",
        )
    else:
        texts = [f"{before or ''}{example.text}" for example in wanted]
        vectors = embedder.encoder.text(texts, progress="examples")
    known = None
    if len(rows):
        known = placed(vectors[len(test) :], rows, len(train))
    return IntentVectors(
        test=vectors[: len(test)],
        truth=[example.label for example in test],
        train=known,
        train_labels=names,
        labels=embedder.encoder.text(label_words, progress="labels") if 0 in shots else None,
    )


def _drawn(
    names: Sequence[str], classes: Sequence[str], most: int, seeds: int
) -> Int[HostArray, " M"]:
    """Places of the training examples that the draws of most shots take, and so of fewer."""
    if not most:
        return np.zeros(0, np.int64)
    place = {name: number for number, name in enumerate(classes)}
    known = np.asarray([place[name] for name in names], np.int64)
    return np.unique([draw_shots(known, len(classes), most, seed) for seed in range(seeds)])


def _kind(examples: Sequence[IntentExample], data: Path | str) -> str:
    """ "spoken" where all examples have a recording, "written" where all have words."""
    if all(example.audio is not None for example in examples):
        return "spoken"
    if all(example.text is not None for example in examples):
        return "written"
    spoken = sum(example.audio is not None for example in examples)
    raise MrlError(
        f"{spoken} of {len(examples)} examples are spoken, and the others only written",
        where=data,
        hint="measure them as two sets",
    )


def _clusters(test: Sequence[IntentExample]) -> Clusters:
    """Words and speakers of the test; an example without words, or a name, is like no other."""
    named = any(example.speaker for example in test)
    return Clusters(
        texts=[(e.text, None) if e.text else e.id for e in test],
        speakers=[(e.speaker, None) if e.speaker else e.id for e in test] if named else None,
    )


def _shown(
    staging: Path, results: Sequence[IntentResult]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Pictures and tables of confusions, at the widest dim with least and most shots."""
    plot_shots(staging / "shots.png", results)
    pictures = [("shots.png", "Accuracy and macro F1 against training examples a label")]
    tables = {}
    widest = max(result.dim for result in results)
    ends = [result for result in results if result.dim == widest]
    ends.sort(key=lambda result: result.shots)
    for one in ends[:1] + ends[1:][-1:]:
        name = f"confusion-{one.shots}-shot.png"
        plot_confusion(staging / name, one)
        how = f"{one.shots} shots, first {one.dim} coordinates"
        pictures.append((name, f"What labels are taken for, in per cent: {how}"))
        tables[f"Most confused: {how}"] = confusion_table(one)
    return pictures, tables


def _predictions(
    test: Sequence[IntentExample], results: Sequence[IntentResult]
) -> list[dict[str, object]]:
    return [
        {
            "id": example.id,
            "dim": result.dim,
            "shots": result.shots,
            "label": example.label,
            "said": [result.classes[i] for i in result.predicted[:, place]],
        }
        for result in results
        for place, example in enumerate(test)
    ]
