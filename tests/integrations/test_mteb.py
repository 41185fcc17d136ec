"""MTEB's own task classes on small local sets give the scores of `mrl-jax eval`."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_run
from serving_cases import TEXTS
from tiny_fleurs import make_fleurs

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.retrieval_set import (
    Document,
    Query,
    RetrievalSet,
    read_retrieval_set,
    with_task_or_prompt,
)
from mrl_jax.evaluation.encoded_set import encode_set
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.nn import param_tree

pytest.importorskip("mteb")

import datasets
import mteb
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from sklearn.linear_model import LogisticRegression

from mrl_jax.integrations.mteb import MtebEncoder, load_encoder
from mrl_jax.integrations.mteb_fleurs import FleursCrosslingualA2TRetrieval

K = 10


def metadata(name: str, kind: str, category: str, modalities: list[str]) -> TaskMetadata:
    place: Any = {"path": "local/none", "revision": "1"}
    fields: Any = {"name": name, "type": kind, "category": category, "modalities": modalities}
    score = "accuracy" if category == "t2c" else "ndcg_at_10"
    return TaskMetadata(
        **fields,
        description="a set of tones",
        dataset=place,
        eval_langs=["wol-Latn"],
        main_score=score,
    )


class Local:
    """What a task has of its own here: its data are given, not fetched."""

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        pass


class SpokenTask(Local, AbsTaskRetrieval):
    metadata = metadata("TonesA2T", "Any2AnyRetrieval", "a2t", ["audio", "text"])


class WrittenTask(Local, AbsTaskRetrieval):
    metadata = metadata("TonesT2T", "Retrieval", "t2t", ["text"])


class LabelTask(Local, AbsTaskClassification):
    metadata = metadata("TonesLabels", "Classification", "t2c", ["text"])
    samples_per_label = 100
    n_experiments = 2


def retrieval_task(kind: type, data: RetrievalSet) -> Any:
    rows: list[dict[str, Any]] = [{"id": query.id} for query in data.queries]
    for row, query in zip(rows, data.queries, strict=True):
        if query.audio is None:
            row["text"] = query.text
        else:
            row["audio"] = {"bytes": None, "path": str(query.audio)}
    queries = datasets.Dataset.from_list(rows)
    if "audio" in rows[0]:
        queries = queries.cast(datasets.Features(id=datasets.Value("string"), audio=AUDIO))
    corpus = [{"id": one.id, "text": one.text} for one in data.corpus]
    task = kind()
    parts = {"queries": queries, "corpus": datasets.Dataset.from_list(corpus)}
    parts |= {"relevant_docs": {key: dict(of) for key, of in data.qrels.items()}}
    task.dataset = {"default": {"test": {**parts, "top_ranked": None}}}
    task.data_loaded = True
    return task


AUDIO = datasets.Audio(sampling_rate=8_000)


def by_query(task: Any, encoder: MtebEncoder, folder: Path) -> dict[str, float]:
    """nDCG at 10 of each query, as MTEB scores the ranking that it saved, without rounding."""
    result = run(task, encoder, folder)
    file = folder / f"{task.metadata.name}_predictions.json"
    saved = json.loads(file.read_text())
    subset = next(iter(task.dataset))
    judged = task.dataset[subset]["test"]["relevant_docs"]
    scores = calculate_retrieval_scores(saved[subset]["test"], judged, [K]).all_scores
    each = {query: values[f"ndcg_cut_{K}"] for query, values in scores.items()}
    main = result.task_results[0].scores["test"][0]["ndcg_at_10"]
    assert main == pytest.approx(np.mean([*each.values()]), abs=1e-5)
    return each


def run(task: Any, encoder: Any, folder: Path | None = None) -> Any:
    return mteb.evaluate(
        encoder,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        prediction_folder=folder,
    )


def by_eval(embedder: Any, data: RetrievalSet, dim: int) -> dict[str, float]:
    judgements = judgements_of(data)
    (result,) = evaluate_retrieval(*encode_set(embedder, data), judgements, dims=[dim])
    names = [judgements.query_ids[row] for row in judgements.judged]
    return dict(zip(names, result.per_query[f"ndcg@{K}"].tolist(), strict=True))


def assert_equal(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    values = [found[name] for name in expected]
    np.testing.assert_allclose(values, [*expected.values()], rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> RetrievalSet:
    return read_retrieval_set(tiny_run.make_retrieval_set(tmp_path_factory.mktemp("set")))


def test_audio_retrieval_has_the_scores_of_eval(embedder, spoken, tmp_path):
    task = retrieval_task(SpokenTask, spoken)
    found = by_query(task, MtebEncoder(embedder), tmp_path / "a")
    expected = by_eval(embedder, spoken, 32)
    assert_equal(found, expected)
    encoder = MtebEncoder(embedder, tasks={"TonesA2T": "find"}, dim=8)
    prompted = by_query(task, encoder, tmp_path / "b")
    assert_equal(prompted, by_eval(embedder, with_task_or_prompt(spoken, task="find"), 8))
    assert prompted != found
    with pytest.raises(AssertionError):
        assert_equal(prompted, expected)


def test_text_retrieval_has_the_scores_of_eval(embedder, tmp_path):
    words = [text[::-1] for text in TEXTS[:12]]
    data = RetrievalSet(
        queries=tuple(Query(id=f"q{n}", text=text) for n, text in enumerate(words)),
        corpus=tuple(Document(id=f"d{n}", text=text) for n, text in enumerate(TEXTS)),
        qrels={f"q{n}": {f"d{n}": 2, f"d{n + 1}": 1} for n in range(12)},
    )
    task = retrieval_task(WrittenTask, data)
    found = by_query(task, MtebEncoder(embedder, task="find"), tmp_path)
    assert_equal(found, by_eval(embedder, with_task_or_prompt(data, task="find"), 32))
    assert found != by_eval(embedder, data, 32)


def test_classification_has_the_accuracy_of_scikit_learn(embedder):
    texts, labels = [*TEXTS, *(f"{text} {text}" for text in TEXTS)], [*range(5)] * 10
    split = {"train": slice(0, None, 2), "test": slice(1, None, 2)}
    rows = {name: {"text": texts[part], "label": labels[part]} for name, part in split.items()}
    task: Any = LabelTask()
    task.dataset = datasets.DatasetDict({k: datasets.Dataset.from_dict(v) for k, v in rows.items()})
    task.data_loaded = True
    found = run(task, MtebEncoder(embedder)).task_results[0].scores["test"][0]
    train, test = (embedder.embed_text(rows[name]["text"]) for name in ("train", "test"))
    classifier = LogisticRegression(max_iter=100).fit(train, rows["train"]["label"])
    accuracy = classifier.score(test, rows["test"]["label"])
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-9)
    wrong = classifier.score(-test, rows["test"]["label"])
    assert wrong != accuracy


@pytest.fixture
def fleurs(tmp_path, monkeypatch) -> Path:
    folder = make_fleurs(tmp_path / "fleurs", "numbered")
    lines = ["---", "configs:"]
    for code in ("wo_sn", "fr_fr"):
        lines += [f"- config_name: {code}", "  data_files:"]
        lines += [f"  - split: test\n    path: {code}/test/*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    place = {"path": str(folder), "revision": "main"}
    moved = FleursCrosslingualA2TRetrieval.metadata.model_copy(update={"dataset": place})
    monkeypatch.setattr(FleursCrosslingualA2TRetrieval, "metadata", moved)
    return folder


def test_the_proposed_task_of_fleurs_has_the_scores_of_eval(embedder, fleurs, tmp_path):
    task = FleursCrosslingualA2TRetrieval()
    task.load_data()
    found = by_query(task, MtebEncoder(embedder), tmp_path / "predictions")
    with pytest.warns(UserWarning, match="left out"):
        data = load_retrieval_set(f"fleurs:wo-fr@{fleurs}")
    assert sorted(task.dataset["wo_sn-fr_fr"]["test"]["corpus"]["text"]) == sorted(
        one.text for one in data.corpus
    )
    expected = by_eval(embedder, data, 32)
    assert_equal(found, {name.removeprefix("wo_sn-"): score for name, score in expected.items()})
    assert len(found) == 4
    assert set(found.values()) != {1.0}


def test_the_description_comes_from_the_model(embedder, folder):
    encoder = MtebEncoder(folder, languages=["wol-Latn", "fra-Latn"], license="apache-2.0")
    meta = encoder.mteb_model_meta
    assert meta is not None
    assert (meta.name, meta.revision) == ("mrl_jax/model", embedder.info.digest)
    assert (meta.framework, meta.modalities) == (["JAX"], ["audio", "text"])
    assert (meta.embed_dim, meta.max_tokens, meta.use_instructions) == ([32, 16, 8], 64, True)
    assert meta.languages == ["wol-Latn", "fra-Latn"]
    towers = (embedder.model.speech, embedder.model.text)
    least = sum(v.get_value().size for t in towers for v in param_tree.flat_weights(t).values())
    assert meta.n_parameters is not None
    assert meta.n_parameters > least
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20)
    other: Any = MtebEncoder(embedder, dim=8, tasks={"X": "find"}).mteb_model_meta
    assert other.embed_dim == 8
    assert other.experiment_kwargs == {"tasks": {"X": "find"}, "dim": 8}
    assert other.to_dict()["loader"] == "load_encoder"
    again = other.model_copy(deep=True).loader(other.name, revision=other.revision)
    vectors = again.embedder.embed_text(["fo"], dim=8)
    np.testing.assert_allclose(vectors, embedder.embed_text(["fo"], dim=8), atol=1e-6)
    assert again.mteb_model_meta.embed_dim == 8


def test_bad_input_is_refused_in_one_line(embedder, folder, spoken, broken):
    with pytest.raises(MrlError, match="no prompt for 'buy', only for find"):
        MtebEncoder(embedder, tasks={"TonesA2T": "buy"})
    with pytest.raises(MrlError, match="dim is 99, expected 1 to 32"):
        MtebEncoder(embedder, dim=99)
    with pytest.raises(MrlError, match=r"MTEB refuses languages.*xyzq") as error:
        MtebEncoder(embedder, languages=["xyzq-Latn"])
    assert "\n" not in str(error.value)
    with pytest.raises(MrlError, match="MTEB refuses colour"):
        MtebEncoder(embedder, colour="red")
    with pytest.raises(MrlError, match=r"holds the model .* and 123 is asked for"):
        load_encoder("a/b", "123", folder=folder)
    queries = [dataclasses.replace(query, audio=broken) for query in spoken.queries[:2]]
    task = retrieval_task(SpokenTask, dataclasses.replace(spoken, queries=tuple(queries)))
    with pytest.raises(MrlError, match=r"TonesA2T, recording 0"):
        run(task, MtebEncoder(embedder))
    images: Any = {"text": ["fo"], "image": [b"png"]}
    inputs = SimpleNamespace(dataset=datasets.Dataset.from_dict(images))
    options: Any = {"task_metadata": WrittenTask.metadata, "hf_split": "", "hf_subset": ""}
    with pytest.raises(MrlError, match=r"TonesT2T: its inputs have the columns image, text"):
        MtebEncoder(embedder).encode(inputs, **options)
