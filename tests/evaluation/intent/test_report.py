"""Intents against scikit-learn, and the report from end to end on a random head."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_run
from descriptions import unsealed
from eval_reports import PAGES, json_lines, names_in, report_intent
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.metrics.pairwise import cosine_similarity

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.intent_set import read_intent_set
from mrl_jax.evaluation.intent.classifiers import predict_cv, predict_mteb
from mrl_jax.evaluation.intent.figures import (
    confusion_table,
    intent_records,
    intent_table,
    plot_confusion,
    plot_shots,
    score_intervals,
)
from mrl_jax.evaluation.intent.measure import (
    IntentResult,
    IntentVectors,
    check_shots,
    draw_shots,
    few_shot_inputs,
    few_shot_predict,
    label_text,
    measure_intents,
    zero_shot_predict,
)
from mrl_jax.evaluation.report.records import read_records
from mrl_jax.metrics.intervals import Clusters

pytestmark = pytest.mark.usefixtures("compiled")
CLASSES = ("card_arrival", "balance", "top_up", "limit")


def made(each=12, width=16, seed=0, noise=0.6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(CLASSES), width))
    labels = np.repeat(np.arange(len(CLASSES)), each)
    train, test = (
        (centres[labels] + noise * rng.normal(size=(len(labels), width)) * 2).astype(np.float32)
        for _ in range(2)
    )
    return train, test, labels, centres.astype(np.float32)


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    for labels in (3, 6):
        truth = rng.integers(0, labels - 1, 50)  # The last is never true.
        predicted = rng.integers(0, labels, (3, 50))
        names = tuple(f"c{i}" for i in range(labels + 1))  # One more is nowhere.
        fixed = {"dim": 8, "shots": 1, "method": "cv", "classes": names}
        result = IntentResult(**fixed, truth=truth, predicted=predicted)
        scores = result.scores()
        for row, labels_of_seed in enumerate(predicted):
            assert scores["accuracy"][row] == pytest.approx(accuracy_score(truth, labels_of_seed))
            for kind in ("macro", "weighted"):
                expected = f1_score(truth, labels_of_seed, average=kind)
                assert scores[f"{kind} F1"][row] == pytest.approx(expected, abs=1e-12)
        counts = sum(confusion_matrix(truth, s, labels=range(labels + 1)) for s in predicted)
        np.testing.assert_array_equal(result.confusion(), counts)
        assert len(set(scores["macro F1"])) == 3


def test_the_nearest_label_is_that_of_the_greatest_cosine():
    _, test, _, centres = made()
    for dim in (4, 16):
        expected = cosine_similarity(test[:, :dim], centres[:, :dim]).argmax(axis=1)
        np.testing.assert_array_equal(zero_shot_predict(test, centres, dim=dim), expected)
    narrow, wide = (zero_shot_predict(test, centres, dim=dim) for dim in (4, 16))
    assert (narrow != wide).any()
    # Of equal labels the first.
    assert set(zero_shot_predict(test, np.repeat(centres[:1], 3, axis=0), dim=16)) == {0}


def test_macro_f1_is_the_mean_of_its_values_and_their_interval_is_the_bootstraps():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 30)
    speakers = rng.integers(0, 25, 150)
    wrong = rng.random((2, 150)) < 0.1 + 0.5 * rng.random(25)[speakers]
    predicted = np.where(wrong, rng.integers(0, 6, (2, 150)), truth)  # The last is never true.
    names = tuple("abcdef")
    result = IntentResult(
        dim=8, shots=1, method="cv", classes=names, truth=truth, predicted=predicted
    )
    values = result.macro_f1_values()
    assert np.mean(values) == pytest.approx(np.mean(result.scores()["macro F1"]), abs=1e-12)

    def macro_f1(rows):
        return np.mean([f1_score(truth[rows], p[rows], average="macro") for p in predicted])

    # Whole speakers are resampled, and all is counted anew.
    drawn = rng.integers(0, 25, (400, 25))
    direct = [
        macro_f1(np.concatenate([np.flatnonzero(speakers == s) for s in row])) for row in drawn
    ]
    sums = np.bincount(speakers, values - values.mean(), minlength=25)
    counts = np.bincount(speakers, minlength=25)
    linear = [sums[row].sum() / counts[row].sum() for row in drawn]
    assert np.std(linear) == pytest.approx(np.std(direct), rel=0.1)
    assert np.corrcoef(linear, direct)[0, 1] > 0.98
    clusters = Clusters(texts=list(range(150)), speakers=speakers.tolist())
    interval = score_intervals(result, clusters)["macro F1"]
    reach = (interval.high - interval.low) / 2
    assert reach == pytest.approx(2 * np.std(direct), rel=0.25)
    assert reach > (lambda i: (i.high - i.low) / 2)(score_intervals(result)["macro F1"])


def test_classifiers_read_prefixes_of_vectors_and_of_means_over_tokens():
    train, tokens = made()[0], np.random.default_rng(1).normal(size=(48, 3, 16)).astype(np.float32)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    parts = [unit(train[:, :5]), *(unit(tokens[:, part, :5]) for part in range(3))]
    inputs = few_shot_inputs(train, tokens, dim=5)
    np.testing.assert_allclose(inputs, np.concatenate(parts, axis=1), atol=1e-6)
    assert inputs.dtype == np.float64
    np.testing.assert_array_equal(few_shot_inputs(train, None, dim=5), inputs[:, :5])


def test_draws_are_stratified_seeded_and_nested():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [9, 5, 20, 6]))
    drawn = {k: draw_shots(labels, 4, k, seed=1) for k in (1, 2, 5)}
    for shots, rows in drawn.items():
        assert np.bincount(labels[rows]).tolist() == [shots] * 4
        assert len(set(rows.tolist())) == len(rows)
    assert set(drawn[1]) < set(drawn[2]) < set(drawn[5])
    np.testing.assert_array_equal(draw_shots(labels, 4, 2, seed=1), drawn[2])
    assert draw_shots(labels, 4, 2, seed=2).tolist() != drawn[2].tolist()
    with pytest.raises(ValueError, match="class 1 has 5 examples"):
        draw_shots(labels, 4, 6, seed=0)


def test_every_dim_and_number_of_shots(tmp_path):
    train, test, labels, centres = made()
    names = [CLASSES[i] for i in labels]
    texts = {"label text": centres}
    vectors = IntentVectors(test=test, truth=names, train=train, train_labels=names, labels=texts)
    fixed = {"classes": CLASSES, "dims": [16, 4], "shots": (0, 2, 12), "seeds": 3}
    results = measure_intents(vectors, classifiers=["mteb"], **fixed)
    assert [(r.dim, r.shots) for r in results] == [(d, s) for d in (16, 4) for s in (0, 2, 12)]
    assert [len(r.predicted) for r in results] == [1, 3, 3] * 2
    zero, few, all_of_them = results[:3]
    np.testing.assert_array_equal(zero.predicted[0], zero_shot_predict(test, centres, dim=16))
    rows = draw_shots(labels, 4, 2, seed=2)
    np.testing.assert_array_equal(
        few.predicted[2],
        predict_mteb(
            few_shot_inputs(train[rows], None, dim=16),
            labels[rows],
            few_shot_inputs(test, None, dim=16),
        ),
    )
    # All examples are one draw only.
    assert (all_of_them.predicted == all_of_them.predicted[0]).all()
    assert (few.predicted != few.predicted[0]).any()
    assert np.mean(all_of_them.scores()["accuracy"]) > np.mean(results[5].scores()["accuracy"])
    records = intent_records(results)
    assert len(records) == 6 * 3
    assert {(r.setting["shots"], r.setting["method"]) for r in records} == {
        (0, "label text"),
        (2, "mteb"),
        (12, "mteb"),
    }
    one = next(r for r in records if r.dim == 16 and r.setting["shots"] == 2)
    values = few.scores()["accuracy"]
    assert (one.value, one.setting["sd"]) == (np.mean(values), np.std(values, ddof=1))
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.value < one.high
    assert "±" in str(intent_table(results)).splitlines()[3]
    assert "±" not in str(intent_table(results)).splitlines()[2]
    # With means over tokens, by both classifiers, and two ways to be nearest.
    tokens = np.stack([test[:, ::-1], 3 * test], axis=1)
    both = measure_intents(
        dataclasses.replace(
            vectors,
            labels={**texts, "label centroid": -centres},
            test_tokens=tokens,
            train_tokens=np.stack([train[:, ::-1], 3 * train], axis=1),
        ),
        **fixed,
    )
    methods = ["label text", "label centroid", "mteb", "cv", "mteb", "cv"]
    assert [result.method for result in both] == methods * 2
    assert [r.features for r in both[:6]] == ["pooled"] * 2 + ["pooled+tokens"] * 4
    np.testing.assert_array_equal(both[0].predicted, zero.predicted)
    assert (both[1].predicted != zero.predicted).any()
    rows = draw_shots(labels, 4, 2, seed=2)
    known, unknown = (
        few_shot_inputs(x, np.stack([x[:, ::-1], x], axis=1), dim=16) for x in (train[rows], test)
    )
    np.testing.assert_array_equal(both[3].predicted[2], predict_cv(known, labels[rows], unknown))
    plot_shots(tmp_path / "a.png", both)
    plot_confusion(tmp_path / "b.png", zero)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_most_confused_labels():
    truth = np.array([0] * 4 + [1] * 4)
    predicted = np.array([[0, 1, 1, 1, 1, 1, 1, 0]])
    fixed = {"dim": 2, "shots": 0, "method": "label text", "truth": truth}
    result = IntentResult(**fixed, classes=("a", "b", "c"), predicted=predicted)
    assert [row.split("|")[1:4] for row in str(confusion_table(result)).splitlines()[2:]] == [
        [" a ", " b ", " 75% "],
        [" b ", " a ", " 25% "],
    ]
    right = IntentResult(**fixed, classes=("a", "b"), predicted=truth[None])
    assert str(confusion_table(right)).splitlines()[2:] == ["| none | none | none |"]


def test_words_of_a_label():
    assert label_text("card_arrival") == "card arrival"
    assert label_text("card__top_up_") == "card top up"
    assert label_text("_") == "_"


def test_what_cannot_be_measured():
    train, test, labels, centres = made()
    names = [CLASSES[i] for i in labels]
    check_shots(names, CLASSES, (0, 12))
    for shots, message in (
        (
            (0, 4, 13),
            r"has 12 training .* than 13 shots .4 of 4 labels have fewer.\. Pass --shots 0,4,",
        ),
        ((16,), r"fewer than 16 shots.* Pass --shots 0, or add examples"),
        ((4, 4), "4 shots, which is there twice"),
        ((-1,), "-1 shots, which is below 0"),
        ((), "no number of shots"),
    ):
        with pytest.raises(MrlError, match=message):
            check_shots(names, CLASSES, shots)
    with pytest.raises(MrlError, match="'other' has 0 training examples"):
        check_shots(names, (*CLASSES, "other"), (1,))
    spoilt = test.copy()
    spoilt[3, 1] = np.nan
    for vectors, known, message in ((spoilt, train, "test"), (test, spoilt, "training")):
        with pytest.raises(MrlError, match=f"vector of {message} example 3 is not finite"):
            few_shot_predict(known, labels, vectors, classifier="cv")
    with pytest.raises(MrlError, match="the vector of query 3 is not finite"):
        zero_shot_predict(spoilt, centres, dim=8)


@pytest.fixture
def embedder(two_dims, compiled):
    return mrl_jax.Embedder.load(two_dims)


def write_set(folder: Path, *, spoken: bool, each: int = 6) -> Path:
    """Examples of three labels, half of them to learn from; a label's word comes first."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(3 * each):
        label, second = number % 3, (number * 7) % 5
        row = {
            "label": f"{tiny_run.WORDS[label]}_{tiny_run.WORDS[label]}",
            "split": "train" if number < 3 * each // 2 else "test",
        }
        if spoken:
            row["audio"] = f"{number}.wav"
            clip = tiny_run.clip_of((label, second), number)
            soundfile.write(folder / row["audio"], clip, tiny_run.RATE)
        else:
            row["text"] = tiny_run.text_of((label, second))
        lines.append(row)
    path = folder / "intents.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_report_of_spoken_intents(two_dims, embedder, tmp_path, encoded):
    data = write_set(tmp_path / "set", spoken=True)
    out = tmp_path / "out"
    table = report_intent(two_dims, data, out, shots=(0, 1, 2), seeds=2)
    examples = read_intent_set(data)
    assert [*map(len, encoded["text"])] == [3]
    assert len(encoded["speech"]) == 1
    figures = {f"confusion-2-shot-{name}.png" for name in ("mteb", "cv")}
    figures |= {"confusion-0-shot-label-text.png", "shots.png"}
    assert names_in(out) == PAGES | figures | {"predictions.jsonl"}
    report = (out / "report.md").read_text("utf-8")
    assert table in report
    assert "9 spoken test examples of 3 labels" in report
    assert '"ba ba"' in report
    test = [example for example in examples if example.split == "test"]
    vectors = embedder.embed_speech([example.audio for example in test])
    words = embedder.embed_text(["ba ba", "ce ce", "di di"])
    predicted = zero_shot_predict(vectors, words, dim=8)
    truth = [{"ba_ba": 0, "ce_ce": 1, "di_di": 2}[example.label] for example in test]
    records = read_records(out / "results.jsonl")
    assert len(records) == 2 * (1 + 2 * 2) * 3
    zero = {r.metric: r for r in records if r.dim == 8 and r.setting["shots"] == 0}
    assert zero["accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    assert zero["macro F1"].value == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert zero["weighted F1"].value == pytest.approx(
        f1_score(truth, predicted, average="weighted")
    )
    lines = json_lines(out / "predictions.jsonl")
    assert len(lines) == 9 * 2 * (1 + 2 * 2)
    assert {len(line["predicted"]) for line in lines if line["shots"]} == {2}
    with pytest.raises(MrlError, match="exists already"):
        report_intent(two_dims, data, out, shots=(0,))


def test_a_report_of_written_intents_with_a_prompt(two_dims, embedder, tmp_path, encoded):
    data = write_set(tmp_path / "set", spoken=False)
    embedded = encoded["text"]
    report_intent(
        two_dims,
        data,
        tmp_path / "a",
        shots=(0,),
        prompt="intent",
        label_format="gu {}",
        label_texts={"di_di": ["fo"]},
    )
    chosen = {"shots": (3,), "seeds": 2, "dims": [8], "classifiers": ("mteb",)}
    report_intent(two_dims, data, tmp_path / "b", prompt="fo ", **chosen)
    assert encoded["speech"] == []
    assert embedded[0][0] == "ba ce\nQuery:ba fo"
    assert embedded[1] == ["gu ba ba", "gu ce ce", "gu fo"]
    # All nine training examples are drawn; no label text is embedded.
    assert len(embedded) == 3
    assert len(embedded[2]) == 18
    assert all(text.startswith("fo ") for text in embedded[2])
    assert not (tmp_path / "a" / "confusion-3-shot-mteb.png").exists()
    assert (tmp_path / "b" / "confusion-3-shot-mteb.png").is_file()
    assert not (tmp_path / "b" / "confusion-3-shot-cv.png").exists()
    # A column of the table names labels as well.
    rows = json_lines(data)
    named = [{**row, "label_text": "gu fo"} if "ce" in row["label"] else row for row in rows]
    data.write_text("".join(json.dumps(row) + "\n" for row in named))
    report_intent(two_dims, data, tmp_path / "c", shots=(0,))
    assert embedded[-1] == ["ba ba", "gu fo", "di di"]
    named[1]["label_text"] = "fo"
    data.write_text("".join(json.dumps(row) + "\n" for row in named))
    with pytest.raises(MrlError, match="the label 'ce_ce' is 'gu fo' here and 'fo' before"):
        report_intent(two_dims, data, tmp_path / "d", shots=(0,))


def test_the_accuracy_is_as_sure_as_there_are_speakers(two_dims, tmp_path, encoded):
    data = write_set(tmp_path / "set", spoken=False)
    rows = json_lines(data)

    def interval(report: str, lines) -> tuple[float, float]:
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        report_intent(two_dims, data, tmp_path / report, shots=(0,), dims=[8])
        records = read_records(tmp_path / report / "results.jsonl")
        (accuracy,) = (r for r in records if r.metric == "accuracy")
        assert accuracy.low is not None
        assert accuracy.high is not None
        return accuracy.low, accuracy.high

    plain = interval("plain", rows)
    # One who says what is understood, and one who does not, are two and not nine.
    table = json_lines(tmp_path / "plain/predictions.jsonl")
    right = {row["id"]: row["label"] == row["predicted"][0] for row in table}
    assert len(set(right.values())) == 2
    test = [row for row in rows if row["split"] == "test"]
    named = [
        {**row, "id": f"test-{i}", "speaker": f"s{right[f'test-{i}']}"}
        for i, row in enumerate(test)
    ]
    wide = interval("named", [row for row in rows if row["split"] != "test"] + named)
    assert wide[1] - wide[0] > plain[1] - plain[0]
    message = "resampling test examples by their words and speakers;"
    assert message in (tmp_path / "named" / "report.md").read_text().replace("\n", " ")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("matplotlib", "a report takes matplotlib"),
        ("sklearn", "a report of intents takes sklearn"),
        ("jinja2", "a report takes jinja2"),
    ],
)
def test_a_missing_library_is_refused_before_anything_is_embedded(
    missing, message, two_dims, tmp_path, encoded, monkeypatch
):
    data = write_set(tmp_path / "set", spoken=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MrlError, match=f"{message}, which is not installed"):
        report_intent(two_dims, data, tmp_path / "out", shots=(0, 1))
    assert encoded == {"speech": [], "text": []}
    assert not (tmp_path / "out").exists()


def test_bad_sets_and_options(two_dims, tmp_path, encoded):
    data = write_set(tmp_path / "set", spoken=False)
    rows = json_lines(data)

    def refused(message, lines=rows, **options):
        table = tmp_path / "bad.jsonl"
        table.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(MrlError, match=message):
            report_intent(two_dims, table, tmp_path / "out", **{"shots": (0,), **options})

    refused("'ba_ba' has 3 training examples, fewer than 16 shots .3 of 3", shots=(0, 1, 16))
    refused("has no example of the split 'test', only of train", lines=rows[:9])
    new = {**rows[-1], "label": "new"}
    refused("the label 'new' has 0 training examples", lines=[*rows, new], shots=(1,))
    refused("the dimension 64 is not of this model", dims=[64])
    refused("has no place for the label", label_format="about")
    refused("--seeds: 0, expected 1 or more", seeds=0)
    mixed = write_set(tmp_path / "mixed", spoken=True, each=2)
    lines = json_lines(mixed)
    del lines[0]["audio"]
    mixed.write_text(
        "".join(json.dumps(x) + "\n" for x in [{**lines[0], "text": "ba"}, *lines[1:]])
    )
    with pytest.raises(MrlError, match="5 of 6 examples are spoken, and the others only written"):
        report_intent(two_dims, mixed, tmp_path / "out", shots=(0,))
    assert encoded == {"speech": [], "text": []}
    assert not (tmp_path / "out").exists()


def in_folder(folder: Path, labels: list[dict[str, Any]], *, spoken: bool) -> Path:
    """`write_set` as a folder of splits, beside what it says of its labels."""
    table = write_set(folder, spoken=spoken)
    rows = json_lines(table)
    table.unlink()
    for name, some in {
        "train": [row for row in rows if row["split"] == "train"],
        "test": [row for row in rows if row["split"] == "test"],
        "labels": labels,
    }.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


LABELS = [
    {"label": "ba_ba", "label_text": ["fo", "gu fo", "gu"], "unseen": True},
    {"label": "ce_ce", "label_text": "ce"},
]


def test_label_texts_and_tokens_of_a_spoken_set(two_dims, embedder, tmp_path, encoded):
    data = in_folder(tmp_path / "set", LABELS, spoken=True)
    out = tmp_path / "out"
    report_intent(two_dims, data, out, shots=(0, 2), seeds=2, features="pooled+tokens", dims=[8])
    texts = ["fo", "gu fo", "gu", "ce", "di di"]
    assert encoded["text"] == [texts]
    examples = [e for e in read_intent_set(data) if e.split == "test"]
    vectors, words = embedder.embed_speech([e.audio for e in examples]), embedder.embed_text(texts)
    truth = [["ba_ba", "ce_ce", "di_di"].index(e.label) for e in examples]
    records = read_records(out / "results.jsonl")
    for method, labels in {
        "label text": words[[0, 3, 4]],
        "label centroid": np.stack([words[:3].mean(axis=0), words[3], words[4]]),
    }.items():
        (accuracy,) = (
            r for r in records if r.metric == "accuracy" and r.setting["method"] == method
        )
        expected = accuracy_score(truth, zero_shot_predict(vectors, labels, dim=8))
        assert accuracy.value == pytest.approx(expected)
    (f1,) = (r for r in records if r.metric == "macro F1" and r.setting["method"] == "cv")
    assert f1.setting["features"] == "pooled+tokens"
    assert f1.low is not None
    assert f1.high is not None
    assert f1.low <= f1.value <= f1.high
    report = (out / "report.md").read_text("utf-8").replace("\n", " ")
    assert "`label centroid`: the label whose texts (name and paraphrases, up to 3)" in report
    assert "prefixes of the same width of means over tokens" in report
    assert "`cv`: ridge regression" in report


def test_a_dual_encoder_has_no_tokens(tmp_path):
    model = tiny_run.make_dual_encoder(tmp_path)
    data = in_folder(tmp_path / "set", LABELS, spoken=True)
    chosen = {"shots": (0,), "features": "pooled+tokens"}
    with pytest.raises(MrlError, match=r"dual encoder.*no tokens.*--features pooled"):
        report_intent(model, data, tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()


def test_labels_that_a_training_used_are_not_unseen(tmp_path, encoded):
    model = tiny_run.make_model(tmp_path)
    data = in_folder(tmp_path / "set", LABELS, spoken=False)
    tower = tmp_path / "towers" / "text" / "tower.json"
    tower.write_text(unsealed(tower, labels=["ce_ce", "other"]))
    report_intent(model, data, tmp_path / "seen", shots=(0,))  # It does not say unseen of these.
    tower.write_text(unsealed(tower, labels=["ba_ba"]))
    with pytest.raises(MrlError, match=r"text: a training of the tower used the label 'ba_ba'"):
        report_intent(model, data, tmp_path / "out", shots=(0,))
    assert not (tmp_path / "out").exists()
