"""Published sets: small ones in exactly the published format, read by name, without network."""

import csv
import importlib.util
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from test_hub import COMMIT, Handler, Hub, closed_port, environment

from mrl_jax.data.fleurs import HUB_ID, HUB_REVISION, load_fleurs
from mrl_jax.data.named_sets import KALLAAMA_HUB_ID, load_intent_set, load_retrieval_set
from mrl_jax.data.retrieval_set import load_query_audio
from mrl_jax.errors import MrlError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
soundfile = pytest.importorskip("soundfile")


def tone(hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(1600) / 16000)).astype(np.float32)


def wav(hertz: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(hertz), 16000, format="WAV")
    return file.getvalue()


AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def write_hub(path: Path, rows: list[dict], features: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if "audio" in table.column_names:
        place = table.column_names.index("audio")
        audio = pyarrow.array([row["audio"] for row in rows], AUDIO)
        table = table.set_column(place, "audio", audio)
    told = {"huggingface": json.dumps({"info": {"features": features or {}}})}
    parquet.write_table(table.replace_schema_metadata(told), path)


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
    found = load_retrieval_set(named.format(make_kallaama(tmp_path)))
    assert [query.id for query in found.queries] == ["q0", "q1", "q2"]
    assert found.queries[0].text == "ba"
    clip = load_query_audio(found.queries[1], 16000)
    np.testing.assert_allclose(clip, tone(400), atol=1e-4)
    assert found.qrels == {f"q{i}": {f"d{i}": 1} for i in range(3)}


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
    found = load_retrieval_set(tmp_path)
    assert [document.text for document in found.corpus] == [
        "Mil Le mil se vend.",
        "Le prix monte.",
        "Seulement un titre",
    ]
    assert found.qrels == {"1": {"4983": 2, "7912": 1}}
    assert found.unjudged == ("3",)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": ""}\n')
    with pytest.raises(MrlError, match=r"corpus.jsonl, line 1: `text` is empty"):
        load_retrieval_set(tmp_path)


# FLEURS: sentences 0 to 3, each read once or more; 2 is not in French, 9 not in Wolof.
WOLOF = [
    (0, "Naka nga def?"),
    (1, "Jàmm rekk."),
    (0, "Naka nga def?"),
    (2, "Waaw."),
    (3, "Déédéet"),
]
FRENCH = [
    (1, "La paix seulement."),
    (0, "Comment vas-tu ?"),
    (9, "Autre."),
    (1, "La paix seulement."),
    (3, "Non."),
]
LANGUAGES = ["af_za", "fr_fr", "wo_sn"]
CLASSES = {
    "gender": {"names": ["male", "female", "other"], "_type": "ClassLabel"},
    "lang_id": {"names": LANGUAGES, "_type": "ClassLabel"},
}


def fleurs_row(code: str, number: int, index: int, text: str) -> dict:
    return {
        "id": number,
        "num_samples": 1600,
        "path": f"/cache/{code}/{index}.wav",
        "audio": {"bytes": wav(300 + 50 * index), "path": f"{index}.wav"},
        "transcription": text.lower(),
        "raw_transcription": text,
        "gender": index % 3,
        "lang_id": LANGUAGES.index(code),
        "language": "Wolof",
        "lang_group_id": 3,
    }


def make_fleurs(folder: Path, form: str) -> Path:
    for code, sentences in (("wo_sn", WOLOF), ("fr_fr", FRENCH)):
        rows = [fleurs_row(code, n, i, text) for i, (n, text) in enumerate(sentences)]
        if form == "shards":  # The older form of the hub's conversion.
            write_hub(folder / code / "fleurs-test-00000-of-00002.parquet", rows[:2], CLASSES)
            write_hub(folder / code / "fleurs-test-00001-of-00002.parquet", rows[2:], CLASSES)
        else:
            write_hub(folder / code / "test" / "0000.parquet", rows, CLASSES)
        write_hub(folder / code / "train" / "0000.parquet", rows[:1], CLASSES)
    return folder


def read(name: str, left_out: tuple[int, int]):
    told = f"left out {left_out[0]} queries and {left_out[1]} documents"
    with pytest.warns(UserWarning, match=told):
        return load_retrieval_set(name)


@pytest.mark.parametrize("form", ["folders", "shards"])
def test_fleurs_speech_to_text(form, tmp_path):
    make_fleurs(tmp_path, form)
    found = read(f"fleurs:wo-fr@{tmp_path}", (1, 1))
    assert [(q.id, q.transcript) for q in found.queries] == [
        ("wo_sn-0-0", "Naka nga def?"),
        ("wo_sn-1-0", "Jàmm rekk."),
        ("wo_sn-0-1", "Naka nga def?"),
        ("wo_sn-3-0", "Déédéet"),
    ]
    assert [q.text for q in found.queries] == [None] * 4
    np.testing.assert_allclose(load_query_audio(found.queries[2], 16000), tone(400), atol=1e-4)
    assert [(d.id, d.text) for d in found.corpus] == [
        ("fr_fr-1", "La paix seulement."),
        ("fr_fr-0", "Comment vas-tu ?"),
        ("fr_fr-3", "Non."),
    ]
    assert found.qrels == {
        "wo_sn-0-0": {"fr_fr-0": 1},
        "wo_sn-1-0": {"fr_fr-1": 1},
        "wo_sn-0-1": {"fr_fr-0": 1},
        "wo_sn-3-0": {"fr_fr-3": 1},
    }


def test_fleurs_the_other_way_and_in_writing(tmp_path):
    make_fleurs(tmp_path, "folders")
    back = read(f"fleurs:fr-wo@{tmp_path}", (1, 1))
    assert [q.id for q in back.queries] == ["fr_fr-1-0", "fr_fr-0-0", "fr_fr-1-1", "fr_fr-3-0"]
    assert [d.text for d in back.corpus] == ["Naka nga def?", "Jàmm rekk.", "Déédéet"]
    text = read(f"fleurs:wo-fr:text@{tmp_path}", (1, 1))
    assert [(q.text, q.audio) for q in text.queries] == [
        ("Naka nga def?", None),
        ("Jàmm rekk.", None),
        ("Déédéet", None),
    ]
    assert text.qrels == {f"wo_sn-{i}": {f"fr_fr-{i}": 1} for i in (0, 1, 3)}
    assert read(f"fleurs:wo_sn-fr_fr:text@{tmp_path}", (1, 1)) == text
    # Sentences with the same words are one document.
    rows = [fleurs_row("fr_fr", n, n, "Même.") for n in (0, 1, 3)]
    write_hub(tmp_path / "fr_fr" / "test" / "0000.parquet", rows, CLASSES)
    same = load_fleurs("wo", "fr", folder=tmp_path)
    assert [d.id for d in same.data.corpus] == ["fr_fr-0"]
    assert {tuple(scores) for scores in same.data.qrels.values()} == {("fr_fr-0",)}


def make_tfds(folder: Path, *, audio: str = "tensor") -> Path:
    """What tfds prepares for xtreme_s, but that its Audio feature takes TensorFlow.

    A row of whole numbers is what that feature gives, and is stored in the same way.
    """
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {
        "id": tfds.features.Scalar(np.int32),
        "num_samples": tfds.features.Scalar(np.int32),
        "path": tfds.features.Text(),
        "audio": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        "transcription": tfds.features.Text(),
        "raw_transcription": tfds.features.Text(),
        "gender": tfds.features.ClassLabel(names=CLASSES["gender"]["names"]),
        "lang_id": tfds.features.ClassLabel(names=LANGUAGES),
        "language": tfds.features.Text(),
        "lang_group_id": tfds.features.ClassLabel(num_classes=7),
    }

    class XtremeS(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "xtreme_s"
        VERSION = tfds.core.Version("2.0.0")
        url_infos = None
        BUILDER_CONFIGS = tuple(
            tfds.core.BuilderConfig(name=f"fleurs.{code}", version="2.0.0")
            for code in ("wo_sn", "fr_fr")
        )

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            code = self.builder_config.name.removeprefix("fleurs.")
            return {"test": self._generate_examples(code, WOLOF if code == "wo_sn" else FRENCH)}

        def _generate_examples(self, code, sentences):
            for index, (number, text) in enumerate(sentences):
                row = fleurs_row(code, number, index, text)
                samples = np.rint(tone(300 + 50 * index).astype(np.float64) * 32768)
                yield index, row | {"audio": samples.astype(np.int64)}

    for code in ("wo_sn", "fr_fr"):
        builder = XtremeS(data_dir=str(folder), config=f"fleurs.{code}", file_format="array_record")
        builder.download_and_prepare()
    for path in folder.glob("xtreme_s/*/2.0.0/features.json"):
        if audio == "feature":
            told = json.loads(path.read_text())
            shape = told["featuresDict"]["features"]["audio"]["tensor"]["shape"]
            told["featuresDict"]["features"]["audio"] = {
                "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
                "audio": {
                    "shape": shape,
                    "dtype": "int64",
                    "encoding": "none",
                    "sampleRate": "16000",
                },
            }
            path.write_text(json.dumps(told))
    return folder


def test_fleurs_of_tfds_is_that_of_the_hub(tmp_path):
    make_fleurs(tmp_path / "hub", "folders")
    make_tfds(tmp_path / "tfds")
    hub = load_fleurs("wo", "fr", folder=tmp_path / "hub")
    tfds = load_fleurs("wo", "fr", folder=tmp_path / "tfds")
    assert (tfds.dropped_queries, tfds.dropped_documents) == (1, 1)
    # TFDS shuffles what it writes.
    told = {frozenset((q.id[:-2], q.transcript) for q in x.data.queries) for x in (hub, tfds)}
    assert len(told) == 1
    assert {d.text for d in tfds.data.corpus} == {d.text for d in hub.data.corpus}
    spoken = sorted((q.transcript, load_query_audio(q, 16000).tobytes()) for q in hub.data.queries)
    again = sorted((q.transcript, load_query_audio(q, 16000).tobytes()) for q in tfds.data.queries)
    assert [t for t, _ in again] == [t for t, _ in spoken]
    clips = [
        {np.frombuffer(c, np.float32).round(3).tobytes() for _, c in x} for x in (spoken, again)
    ]
    assert clips[0] == clips[1]


def test_tfds_audio_without_tensorflow_is_one_line(tmp_path):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is here")
    make_tfds(tmp_path, audio="feature")
    with pytest.raises(MrlError, match=r"takes tensorflow, which is not installed.*parquet files"):
        load_fleurs("wo", "fr", folder=tmp_path)


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
        ("wolbanking77:audio@{}", ("is an intent set", "eval.py intent")),
        ("absent", ("neither a folder nor the name", "expected kallaama, fleurs:wo-fr")),
        ("{}/absent", ("no such folder, for a retrieval set",)),
        ("{}", ("has no table `queries`",)),
        ("kallaama@{}", ("has no table `queries`",)),
        ("fleurs:wo-fr@{}", ("has no test split of wo_sn", "xtreme_s/fleurs.wo_sn of TFDS")),
    ],
)
def test_wrong_names_and_folders(name, parts, tmp_path):
    with pytest.raises(MrlError) as told:
        load_retrieval_set(name.format(tmp_path))
    for part in parts:
        assert part.lower() in str(told.value).lower()
    assert told.value.mend


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
    with pytest.raises(MrlError) as told:
        load_intent_set(name.format(tmp_path))
    for part in parts:
        assert part.lower() in str(told.value).lower()


def test_fleurs_of_another_format(tmp_path):
    make_fleurs(tmp_path, "folders")
    path = tmp_path / "fr_fr" / "test" / "0000.parquet"
    rows = [fleurs_row("fr_fr", n, 0, text) for n, text in FRENCH]
    write_hub(path, [{k: v for k, v in row.items() if k != "raw_transcription"} for row in rows])
    with pytest.raises(MrlError, match=r"0000.parquet, row 1: has no `raw_transcription`"):
        load_fleurs("wo", "fr", folder=tmp_path)
    write_hub(path, [row | {"id": row["id"] + 50} for row in rows])
    with pytest.raises(MrlError, match="no sentence of wo_sn has a counterpart in fr_fr"):
        load_fleurs("wo", "fr", folder=tmp_path)
    path.write_bytes(b"no")
    with pytest.raises(MrlError, match="cannot be read as parquet"):
        load_fleurs("wo", "fr", folder=tmp_path)


# The hub.


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(hub_id, **rest):
        asked.append((hub_id, rest))
        return str(tmp_path / hub_id.split("/")[1].lower())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    make_kallaama(tmp_path / "kallaama-retrieval-eval")
    make_fleurs(tmp_path / "fleurs", "folders")
    assert len(load_retrieval_set("kallaama").queries) == 3
    assert len(read("fleurs:wo-fr", (1, 1)).queries) == 4
    (kallaama, fleurs) = asked
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
    """The hub's paths for data sets, told as those of models."""

    def answer(self) -> None:
        self.path = self.path.replace("/api/datasets/", "/api/models/")
        self.path = self.path.removeprefix("/datasets")
        super().answer()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    server.RequestHandlerClass = DatasetHandler
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SCRIPT = """
import sys
from mrl_jax.data.named_sets import load_retrieval_set
from mrl_jax.errors import run_command
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
