"""Intents against scikit-learn, and the report from end to end on a random head."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run
from eval_reports import PAGES, json_lines, names_in, report_intent
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.metrics.pairwise import cosine_similarity

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.intent_set import read_intent_set
from mrl_jax.evaluation.intent.figures import (
    confusion_table,
    intent_records,
    intent_table,
    plot_confusion,
    plot_shots,
)
from mrl_jax.evaluation.intent.measure import (
    IntentResult,
    IntentVectors,
    check_shots,
    draw_shots,
    few_shot_predict,
    label_text,
    measure_intents,
    zero_shot_predict,
)
from mrl_jax.evaluation.report.records import read_records

pytestmark = pytest.mark.usefixtures("quick_to_compile", "compiled")
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
        result = IntentResult(dim=8, shots=1, classes=names, truth=truth, predicted=predicted)
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


def test_few_shot_predictions_are_those_of_scikit_learn():
    train, test, labels, _ = made()
    unit = [x[:, :8] / np.linalg.norm(x[:, :8], axis=1, keepdims=True) for x in (train, test)]
    for penalty in (1.0, 100.0):
        theirs = LogisticRegression(C=penalty, max_iter=1000).fit(unit[0].astype(float), labels)
        ours = few_shot_predict(train, labels, test, dim=8, penalty=penalty)
        np.testing.assert_array_equal(ours, theirs.predict(unit[1].astype(float)))
    # Lengths do not count, dims do.
    scaled = test * np.linspace(0.1, 9, len(test), dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        few_shot_predict(train, labels, scaled, dim=8, penalty=100.0), ours
    )
    assert (few_shot_predict(train, labels, test, dim=2) != ours).any()
    assert set(few_shot_predict(train[:3], labels[:3], test, dim=8)) == {0}
    # One example of each of many labels is no reason for a warning.
    np.testing.assert_array_equal(
        few_shot_predict(train[:24], np.arange(24), train[:24], dim=16, penalty=1e4), np.arange(24)
    )


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
    vectors = IntentVectors(test=test, truth=names, train=train, train_labels=names, labels=centres)
    results = measure_intents(vectors, classes=CLASSES, dims=[16, 4], shots=(0, 2, 12), seeds=3)
    assert [(r.dim, r.shots) for r in results] == [(d, s) for d in (16, 4) for s in (0, 2, 12)]
    assert [len(r.predicted) for r in results] == [1, 3, 3] * 2
    zero, few, all_of_them = results[:3]
    np.testing.assert_array_equal(zero.predicted[0], zero_shot_predict(test, centres, dim=16))
    rows = draw_shots(labels, 4, 2, seed=2)
    np.testing.assert_array_equal(
        few.predicted[2], few_shot_predict(train[rows], labels[rows], test, dim=16)
    )
    # All examples are one draw only.
    assert (all_of_them.predicted == all_of_them.predicted[0]).all()
    assert (few.predicted != few.predicted[0]).any()
    assert np.mean(all_of_them.scores()["accuracy"]) > np.mean(results[5].scores()["accuracy"])
    records = intent_records(results, 1.0)
    assert len(records) == 6 * 3
    one = next(r for r in records if r.dim == 16 and r.setting["shots"] == 2)
    values = few.scores()["accuracy"]
    assert (one.value, one.setting["sd"]) == (np.mean(values), np.std(values, ddof=1))
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.value < one.high
    assert "±" in str(intent_table(results)).splitlines()[3]
    assert "±" not in str(intent_table(results)).splitlines()[2]
    plot_shots(tmp_path / "a.png", results)
    plot_confusion(tmp_path / "b.png", zero)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_most_confused_labels():
    truth = np.array([0] * 4 + [1] * 4)
    predicted = np.array([[0, 1, 1, 1, 1, 1, 1, 0]])
    result = IntentResult(dim=2, shots=0, classes=("a", "b", "c"), truth=truth, predicted=predicted)
    assert [row.split("|")[1:4] for row in str(confusion_table(result)).splitlines()[2:]] == [
        [" a ", " b ", " 75% "],
        [" b ", " a ", " 25% "],
    ]
    right = IntentResult(dim=2, shots=0, classes=("a", "b"), truth=truth, predicted=truth[None])
    assert str(confusion_table(right)).splitlines()[2:] == ["| none | none | none |"]


def test_words_of_a_label():
    assert label_text("card_arrival") == "card arrival"
    assert label_text("card__top_up_") == "card top up"
    assert label_text("card_arrival", {"card_arrival": "Where is my card?"}) == "Where is my card?"
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
            few_shot_predict(known, labels, vectors, dim=8)
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
    figures = {"confusion-0-shot.png", "confusion-2-shot.png", "shots.png"}
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
    assert len(records) == 2 * 3 * 3
    zero = {r.metric: r for r in records if r.dim == 8 and r.setting["shots"] == 0}
    assert zero["accuracy"].value == pytest.approx(accuracy_score(truth, predicted))
    assert zero["macro F1"].value == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert zero["weighted F1"].value == pytest.approx(
        f1_score(truth, predicted, average="weighted")
    )
    lines = json_lines(out / "predictions.jsonl")
    assert len(lines) == 9 * 6
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
        label_texts={"di_di": "fo"},
    )
    report_intent(two_dims, data, tmp_path / "b", shots=(3,), seeds=2, prompt="fo ", dims=[8])
    assert encoded["speech"] == []
    assert embedded[0][0] == "ba ce\nQuery:ba fo"
    assert embedded[1] == ["gu ba ba", "gu ce ce", "gu fo"]
    # All nine training examples are drawn; no label text is embedded.
    assert len(embedded) == 3
    assert len(embedded[2]) == 18
    assert all(text.startswith("fo ") for text in embedded[2])
    assert not (tmp_path / "a" / "confusion-3-shot.png").exists()
    assert (tmp_path / "b" / "confusion-3-shot.png").is_file()
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
    message = "resampling test examples by their words and speakers."
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
