"""Published sets: small ones in exactly the published format, read by name, without network."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_tables import tone, wav, write_hub
from loopback_hub import COMMIT, Handler, Hub, closed_port, environment, serving
from tiny_fleurs import make_fleurs, read

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.fleurs import HUB_ID, HUB_REVISION
from mrl_jax.data.sets.named_sets import (
    KALLAAMA_HUB_ID,
    NAMED_SETS,
    load_intent_set,
    load_retrieval_set,
)
from mrl_jax.data.sets.retrieval_set import load_query_audio

# Kallaama-retrieval-eval: three tables of parquet, recordings inside that of the queries.


def make_kallaama(folder: Path) -> Path:
    queries = [
        {"_id": f"q{i}", "audio": {"bytes": wav(300 + 100 * i), "path": f"q{i}.wav"}, "text": "ba"}
        for i in range(3)
    ]
    corpus = [{"_id": f"d{i}", "text": f"document {i}"} for i in range(4)]
    qrels = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1.0} for i in range(3)]
    write_hub(folder / "queries" / "test-00000-of-00001.parquet", queries)
    write_hub(folder / "corpus" / "test-00000-of-00001.parquet", corpus)
    write_hub(folder / "qrels" / "test-00000-of-00001.parquet", qrels)
    return folder


@pytest.mark.parametrize("named", ["{}", "kallaama@{}"])
def test_kallaama(named, tmp_path):
    data = load_retrieval_set(named.format(make_kallaama(tmp_path)))
    assert [query.id for query in data.queries] == ["q0", "q1", "q2"]
    assert data.queries[0].text == "ba"
    clip = load_query_audio(data.queries[1], 16000)
    np.testing.assert_allclose(clip, tone(400), atol=1e-4)
    assert data.qrels == {f"q{i}": {f"d{i}": 1} for i in range(3)}


def test_qrels_of_the_hubs_default_table_and_of_several_splits(tmp_path):
    make_kallaama(tmp_path)
    expected = load_retrieval_set(tmp_path)
    (tmp_path / "qrels").rename(tmp_path / "data")  # The layout of MTEB's sets.
    train = [{"query-id": "q0", "corpus-id": "d3", "score": 1}]
    write_hub(tmp_path / "data" / "train-00000-of-00001.parquet", train)
    assert load_retrieval_set(tmp_path) == expected


def test_beir(tmp_path):
    """As beir.GenericDataLoader reads it: title before text, qrels/test.tsv with a header."""
    corpus = [
        {"_id": "4983", "title": "Mil", "text": "Le mil se vend.", "metadata": {}},
        {"_id": "5836", "title": "", "text": "Le prix monte."},
        {"_id": "7912", "title": "Seulement un titre", "text": ""},
    ]
    queries = [{"_id": "1", "text": "où ?", "metadata": {"url": "x"}}, {"_id": "3", "text": "q"}]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n3\t5836\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\t4983\t2\n1\t7912\t1\n"
    )
    data = load_retrieval_set(tmp_path)
    assert [document.text for document in data.corpus] == [
        "Mil Le mil se vend.",
        "Le prix monte.",
        "Seulement un titre",
    ]
    assert data.qrels == {"1": {"4983": 2, "7912": 1}}
    assert data.unjudged == ("3",)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": ""}\n')
    with pytest.raises(MrlError, match=r"documents without text: 1 \('1'\)"):
        load_retrieval_set(tmp_path)


# WolBanking77: as its own scripts read it.


def make_wolbanking(folder: Path) -> Path:
    sentences = {
        "train": [("Sama kàrt, agsiwul", "card_arrival"), ("Ñaata la?", "exchange_rate")],
        "test": [("Kàrt bi?", "card_arrival")],
    }
    for kind in ("full", "5k_split"):
        for split, rows in sentences.items():
            (folder / "text" / kind / split).mkdir(parents=True)
            path = folder / "text" / kind / split / f"{split}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["input_en", "input_fr", "input_wo", "label"])
                writer.writerows(
                    ["card", "carte, où", *row] for row in rows[: 1 if kind == "5k_split" else 2]
                )
    for split, rows in sentences.items():
        table = [
            {"audio": {"bytes": wav(440), "path": "a.wav"}, "text": wo, "intent": label}
            for wo, label in rows
        ]
        write_hub(folder / "audio" / f"{split}.parquet", table)
    return folder


def test_wolbanking77(tmp_path):
    make_wolbanking(tmp_path)
    text = load_intent_set(f"wolbanking77:text@{tmp_path}")
    assert [(e.split, e.text, e.label) for e in text] == [
        ("test", "Kàrt bi?", "card_arrival"),
        ("train", "Sama kàrt, agsiwul", "card_arrival"),
        ("train", "Ñaata la?", "exchange_rate"),
    ]
    assert load_intent_set(f"wolbanking77@{tmp_path}") == text
    assert load_intent_set(f"wolbanking77:text@{tmp_path / 'text'}") == text
    assert len(load_intent_set(f"wolbanking77:text:5k@{tmp_path}")) == 2
    spoken = load_intent_set(f"wolbanking77:audio@{tmp_path}")
    assert [(e.split, e.label, type(e.audio)) for e in spoken] == [
        ("test", "card_arrival", bytes),
        ("train", "card_arrival", bytes),
        ("train", "exchange_rate", bytes),
    ]


def test_a_plain_table_of_intents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": "x", "split": "test"}\n')
    assert load_intent_set(tmp_path / "a.jsonl")[0].label == "x"


@pytest.mark.parametrize("word", NAMED_SETS)
def test_every_listed_name_is_known(word, tmp_path):
    """What a message lists is read: the folder after the @ is what such a name then misses."""
    named = NAMED_SETS[word]
    load = load_retrieval_set if named.kind == "retrieval" else load_intent_set
    assert named.names
    for name in (*named.names, *named.more_names):
        assert name.split(":")[0] == word
        with pytest.raises(MrlError, match=r"has no (table|test split)|holds neither"):
            load(f"{name}@{tmp_path}")


# Names that are wrong, folders that hold something else.


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("fleur:wo-fr", ("neither a folder nor the name", "did you mean `fleurs:wo-fr`")),
        ("kallama", ("did you mean `kallaama`",)),
        ("fleurs:wo", ("did you mean `fleurs:wo-fr`",)),
        ("fleurs:wo-fr:speach", ("neither a folder nor the name",)),
        ("fleurs:wo-xx@{}", ("has no language 'xx'", "name it as in `fleurs:wo-fr`")),
        ("fleurs:wo_sen-fr@{}", ("has no language 'wo_sen'", "did you mean wo_sn")),
        ("fleurs:wo-fr@{}/absent", ("no such folder as", "after the @")),
        ("wolbanking77:audio@{}", ("is an intent set", "mrl-jax eval intent")),
        ("absent", ("neither a folder nor the name", "expected kallaama, fleurs:wo-fr")),
        ("{}/absent", ("no such folder, for a retrieval set",)),
        ("{}", ("has no table `queries`",)),
        ("kallaama@{}", ("has no table `queries`",)),
        ("fleurs:wo-fr@{}", ("has no test split of wo_sn", "xtreme_s/fleurs.wo_sn of TFDS")),
    ],
)
def test_wrong_names_and_folders(name, parts, tmp_path):
    with pytest.raises(MrlError) as message:
        load_retrieval_set(name.format(tmp_path))
    for part in parts:
        assert part.lower() in str(message.value).lower()
    assert message.value.hint


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("wolbanking7:text", ("did you mean `wolbanking77:text`",)),
        ("wolbanking77:txt@{}", ("did you mean `wolbanking77:text@",)),
        ("fleurs:wo-fr@{}", ("neither a folder nor the name",)),
        ("wolbanking77:text", ("published on Kaggle", "kaggle.com/datasets/abdoukarim")),
        ("wolbanking77:text@{}", ("holds neither full/train/train.csv",)),
        ("wolbanking77:audio@{}", ("holds neither train.parquet",)),
        ("{}/absent", ("no such file or folder",)),
    ],
)
def test_wrong_names_of_intent_sets(name, parts, tmp_path):
    with pytest.raises(MrlError) as message:
        load_intent_set(name.format(tmp_path))
    for part in parts:
        assert part.lower() in str(message.value).lower()


# The hub.


def test_what_is_downloaded_from_the_hub(tmp_path, monkeypatch):
    downloads = []

    def snapshot_download(hub_id, **rest):
        downloads.append((hub_id, rest))
        return str(tmp_path / hub_id.split("/")[1].lower())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    make_kallaama(tmp_path / "kallaama-retrieval-eval")
    make_fleurs(tmp_path / "fleurs", "folders")
    assert len(load_retrieval_set("kallaama").queries) == 3
    assert len(read("fleurs:wo-fr", (1, 1)).queries) == 4
    (kallaama, fleurs) = downloads
    assert kallaama[0] == KALLAAMA_HUB_ID
    assert kallaama[1]["repo_type"] == "dataset"
    assert fleurs[0] == HUB_ID
    assert fleurs[1]["revision"] == HUB_REVISION
    assert fleurs[1]["allow_patterns"] == [
        "wo_sn/test/*",
        "wo_sn/fleurs-test*",
        "fr_fr/test/*",
        "fr_fr/fleurs-test*",
    ]


class DatasetHandler(Handler):
    """The hub's paths for data sets, answered as those of models."""

    def answer(self) -> None:
        self.path = self.path.replace("/api/datasets/", "/api/models/")
        self.path = self.path.removeprefix("/datasets")
        super().answer()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(DatasetHandler) as server:
        yield server


SCRIPT = """
import sys
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.core.cli import run_command
def main(argv):
    print(len(load_retrieval_set(argv[0]).queries))
    return 0
sys.exit(run_command(main))
"""


def test_a_set_is_downloaded_and_found_again_without_the_hub(hub, tmp_path):
    make_kallaama(tmp_path / "set")
    hub.models[KALLAAMA_HUB_ID] = {
        path.relative_to(tmp_path / "set").as_posix(): path.read_bytes()
        for path in (tmp_path / "set").rglob("*.parquet")
    } | {"README.md": b"# Not asked for"}

    def run(endpoint: str, **changes: str):
        env = environment(tmp_path / "home", endpoint, **changes)
        argv = [sys.executable, "-c", SCRIPT, "kallaama"]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)

    refused = run(f"http://127.0.0.1:{closed_port()}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"error: data set {KALLAAMA_HUB_ID}: " in refused.stderr
    assert "`kallaama@FOLDER`" in refused.stderr
    done = run(hub.url)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert hub.fetched == {
        f"{t}/test-00000-of-00001.parquet" for t in ("queries", "corpus", "qrels")
    }
    assert COMMIT in str(next((tmp_path / "home").rglob("snapshots/*")))
    again = run(hub.url, HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stdout) == (0, "3\n"), again.stderr
