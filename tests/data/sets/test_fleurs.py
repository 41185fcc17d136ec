"""FLEURS as it is published, by parquet and by TFDS: small sets in exactly those formats."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hub_tables import tone, write_hub
from tiny_fleurs import CLASSES, FRENCH, LANGUAGES, WOLOF, fleurs_row, make_fleurs, read

from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.fleurs import load_fleurs
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.data.sets.retrieval_set import load_query_audio


def test_a_split_may_be_named(tmp_path):
    make_fleurs(tmp_path, "folders")
    for code, sentence in (("wo_sn", WOLOF[1]), ("fr_fr", FRENCH[1])):
        row = fleurs_row(code, 0, 0, sentence[1])
        write_hub(tmp_path / code / "train" / "0000.parquet", [row], CLASSES)
    whole = read(f"fleurs:wo-fr:test@{tmp_path}", (1, 1))
    assert whole == read(f"fleurs:wo-fr@{tmp_path}", (1, 1))
    train = load_retrieval_set(f"fleurs:wo-fr:train@{tmp_path}")
    assert 0 < len(train.queries) < len(whole.queries)
    written = load_retrieval_set(f"fleurs:wo-fr:text:train@{tmp_path}")
    assert [q.text for q in written.queries] == [q.transcript for q in train.queries]
    with pytest.raises(MrlError, match="has no validation split of wo_sn"):
        load_retrieval_set(f"fleurs:wo-fr:validation@{tmp_path}")
    with pytest.raises(MrlError, match="neither a folder nor the name of a set"):
        load_retrieval_set(f"fleurs:wo-fr:train:test@{tmp_path}")


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
            message = json.loads(path.read_text())
            shape = message["featuresDict"]["features"]["audio"]["tensor"]["shape"]
            message["featuresDict"]["features"]["audio"] = {
                "pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
                "audio": {
                    "shape": shape,
                    "dtype": "int64",
                    "encoding": "none",
                    "sampleRate": "16000",
                },
            }
            path.write_text(json.dumps(message))
    return folder


def test_fleurs_of_tfds_is_that_of_the_hub(tmp_path):
    make_fleurs(tmp_path / "hub", "folders")
    make_tfds(tmp_path / "tfds")
    hub = load_fleurs("wo", "fr", folder=tmp_path / "hub")
    tfds = load_fleurs("wo", "fr", folder=tmp_path / "tfds")
    assert (tfds.dropped_queries, tfds.dropped_documents) == (1, 1)
    # TFDS shuffles what it writes.
    message = {frozenset((q.id[:-2], q.transcript) for q in x.data.queries) for x in (hub, tfds)}
    assert len(message) == 1
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
    with pytest.raises(MrlError, match="cannot be read as Parquet"):
        load_fleurs("wo", "fr", folder=tmp_path)
