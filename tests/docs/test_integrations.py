"""The Python of docs/integrations, word by word, in a folder that has what the pages name."""

import re
from pathlib import Path

import pytest
import soundfile
import tiny_run
from repository import ROOT

from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index.search_index import SearchIndex

for package in ("mteb", "langchain_core", "llama_index.core", "qdrant_client", "lancedb"):
    pytest.importorskip(package)

PAGES = ROOT / "docs" / "integrations"
DOCUMENTS = ["ba ce", "di fo", "gu gu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """runs/mine, my_index and question.wav."""
    folder = tmp_path_factory.mktemp("pages")
    model = tiny_run.make_model(folder / "runs")
    model.rename(folder / "runs" / "mine")
    embedder = Embedder.load(folder / "runs" / "mine")
    SearchIndex.build(embedder, DOCUMENTS).save(folder / "my_index")
    soundfile.write(folder / "question.wav", tiny_run.clip_of((0, 1), 3), tiny_run.RATE)
    return folder


def snippets(page: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run(code: str, **names: object) -> dict[str, object]:
    exec(compile(code, "snippet", "exec"), names)
    return names


def test_the_pages_have_their_snippets():
    count = {page.stem: len(snippets(page.stem)) for page in PAGES.glob("*.md")}
    assert count == {"mteb": 2, "frameworks": 2, "stores": 2}


@pytest.mark.filterwarnings("ignore:dim 32 is not among:UserWarning")
def test_frameworks_find_a_document_by_speech_and_by_text(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for code in snippets("frameworks"):
        names = run(code)
        for found in (names["spoken"], names["written"]):
            assert isinstance(found, list)
            assert len(found) == 1
            text = getattr(found[0], "page_content", None) or found[0].text
            assert text in ("le pain", "du poisson frais")


def test_stores_find_documents(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    first, second = (run(code) for code in snippets("stores"))
    expected = SearchIndex.load("my_index").search(audio=["question.wav"], k=1)[0]
    assert [hit.id for hit in first["hits"]] == [hit.id for hit in expected]  # type: ignore
    assert len(second["store"]) == 2  # type: ignore
    assert capsys.readouterr().out.count("\n") == 2


def test_mteb_scores_the_model(folder, monkeypatch, capsys):
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Own(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Own",
            description="three texts",
            dataset={"path": "none", "revision": "1"},
            type="Retrieval",
            category="t2t",
            eval_langs=["wol-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, num_proc=None, **kwargs) -> None:
            rows = [{"id": str(n), "text": text} for n, text in enumerate(DOCUMENTS)]
            judged = {row["id"]: {row["id"]: 1} for row in rows}
            parts = {"queries": Dataset.from_list(rows), "corpus": Dataset.from_list(rows)}
            split = {**parts, "relevant_docs": judged, "top_ranked": None}
            self.dataset = {"default": {"test": split}}  # type: ignore
            self.data_loaded = True

    monkeypatch.chdir(folder)
    first, second = snippets("mteb")
    run(first, task=Own())
    assert float(capsys.readouterr().out) == 1.0
    task = run(second)["task"]
    assert task.metadata.eval_langs == {"wo_sn-fr_fr": ["wol-Latn", "fra-Latn"]}  # type: ignore
