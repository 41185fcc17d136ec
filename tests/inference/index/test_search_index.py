"""An index on disk: what it finds, judged by numpy's full product, and how it grows and shrinks."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run
from damage import damaged

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.evaluation.spectrum.fit_rotation import fit_model_rotation
from mrl_jax.inference.index.description import PRECISIONS, IndexPrecision
from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.inference.search.funnel import make_funnel
from mrl_jax.inference.search.quantize import Int8Store, to_int8

WIDTH = 24


def unit(rows: int, seed: int, width: int = WIDTH) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def documents(rows: int, first: int = 0) -> list[dict]:
    numbers = range(first, first + rows)
    return [{"id": f"d{i}", "text": f"text {i}", "language": ("fr", "wo")[i % 2]} for i in numbers]


def decoded(vectors: np.ndarray, precision: IndexPrecision) -> np.ndarray:
    """What an index at a precision scores by, worked out another way."""
    if precision == "float32":
        return vectors
    if precision == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    if precision == "binary":
        return np.where(vectors > 0, 1, -1).astype(np.float32) / np.sqrt(WIDTH, dtype=np.float32)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    step = (high - low) / 255
    return (low + np.rint((vectors - low) / step) * step).astype(np.float32)


def best_ids(queries: np.ndarray, vectors: np.ndarray, k: int, names: list[str]) -> list[list[str]]:
    order = np.argsort(-(queries.astype(np.float64) @ vectors.T), axis=1, kind="stable")
    return [[names[i] for i in row[:k]] for row in order]


def ids(found) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in found]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_finds_what_the_full_product_finds(precision, tmp_path):
    vectors, queries = unit(300, 0), unit(5, 1)
    index = SearchIndex.from_vectors(vectors, documents(300), precision=precision, shortlist=300)
    names, stored = [f"d{i}" for i in range(300)], decoded(vectors, precision)
    expected = best_ids(queries, stored, 7, names)
    index.save(tmp_path / "index")
    for each in (index, SearchIndex.load(tmp_path / "index")):
        found = each.search(queries, k=7)
        for hits, wanted, query in zip(found, expected, queries, strict=True):
            scores = [hit.score for hit in hits]
            true = [float(query @ stored[names.index(hit.id)]) for hit in hits]
            np.testing.assert_allclose(scores, true, atol=2e-6)
            assert scores == sorted(scores, reverse=True)
            if precision != "binary":  # Of which many scores are equal.
                assert [hit.id for hit in hits] == wanted
    assert ids(index.search(queries, k=7)) != ids(index.search(unit(5, 2), k=7))


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_blocks_are_the_documents_that_are_left_and_their_vectors(precision):
    vectors = unit(50, 5)
    index = SearchIndex.from_vectors(vectors[:40], documents(40), precision=precision)
    index.add(documents(10, 40), vectors[40:])
    index.remove(["d3", "d44"])
    blocks = list(index.blocks(17))
    assert [len(named) for named, _ in blocks] == [17, 17, 14]
    left = [row for row in range(50) if row not in (3, 44)]
    assert [one.id for named, _ in blocks for one in named] == [f"d{row}" for row in left]
    found = np.concatenate([part for _, part in blocks])
    assert index.search(found[:1], k=1)[0][0].id == "d0"
    if precision == "float32":
        np.testing.assert_allclose(found, vectors[left], atol=1e-6)
        assert np.abs(found - vectors[: len(left)]).max() > 0.1


def test_a_short_list_by_a_prefix_is_that_of_the_funnel():
    vectors, queries = unit(400, 3), unit(6, 4)
    index = SearchIndex.from_vectors(vectors, documents(400), prefix=6, shortlist=20)
    places = make_funnel(vectors, prefix=6, shortlist=20).search(queries, 5)
    assert ids(index.search(queries, k=5)) == [[f"d{i}" for i in row] for row in places]
    exact = best_ids(queries, vectors, 5, [f"d{i}" for i in range(400)])
    assert ids(index.search(queries, k=5)) != exact
    whole = SearchIndex.from_vectors(vectors, documents(400), prefix=6, shortlist=400)
    assert ids(whole.search(queries, k=5)) == exact


@pytest.mark.parametrize("options", [{}, {"precision": "binary+int8"}, {"prefix": 6}])
def test_documents_come_and_go(options, tmp_path):
    vectors, queries = unit(200, 5), unit(4, 6)
    index = SearchIndex.from_vectors(vectors[:150], documents(150), shortlist=200, **options)
    index.save(tmp_path / "index")
    index.add(documents(30, 150), vectors[150:180])
    index.add(documents(20, 180), vectors[180:])
    gone = [f"d{i}" for i in range(0, 200, 3)]
    index.remove(gone)
    kept = [i for i in range(200) if i % 3]
    stored = vectors
    if options.get("precision"):
        fitted = to_int8(vectors[:150])
        scale = (fitted.low, fitted.step)
        codes = np.clip(np.rint((vectors - scale[0]) / scale[1]), 0, 255) - 128
        stored = Int8Store(codes.astype(np.int8), *scale).decode()
    expected = best_ids(queries, stored[kept], 9, [f"d{i}" for i in kept])
    assert ids(index.search(queries, k=9)) == expected
    assert len(index) == len(kept)
    index.save()
    again = SearchIndex.load(tmp_path / "index")
    for each in (index, again):
        assert len(each) == len(kept)
        assert ids(each.search(queries, k=9)) == expected
    assert len((tmp_path / "index" / "documents.jsonl").read_text().splitlines()) == len(kept)
    again.add([{"id": "d0", "text": "back"}], vectors[:1])
    assert again.search(vectors[:1], k=1)[0][0].text == "back"


def test_equal_documents_are_in_the_order_in_which_they_came():
    vectors = np.repeat(unit(1, 7), 40, axis=0)
    index = SearchIndex.from_vectors(vectors, documents(40))
    index.remove(["d1"])
    assert ids(index.search(vectors[:1], k=3)) == [["d0", "d2", "d3"]]


@pytest.mark.parametrize("options", [{}, {"prefix": 6, "shortlist": 10}])
def test_a_filter_sees_the_fields_and_leaves_documents_out(options):
    vectors, queries = unit(300, 8), unit(3, 9)
    index = SearchIndex.from_vectors(vectors, documents(300), **options)
    french = [i for i in range(300) if i % 2 == 0]
    expected = best_ids(queries, vectors[french], 4, [f"d{i}" for i in french])
    found = index.search(queries, k=4, filter=lambda fields: fields["language"] == "fr")
    assert all(hit.fields["language"] == "fr" for hits in found for hit in hits)
    if not options:
        assert ids(found) == expected
    two = index.search(queries, k=4, filter=lambda fields: fields["id"] in ("d7", "d9"))
    assert [sorted(row) for row in ids(two)] == [["d7", "d9"]] * 3
    assert ids(index.search(queries, k=4, filter=lambda fields: False)) == [[], [], []]


@pytest.fixture(scope="module")
def embedder(root) -> mrl_jax.Embedder:
    return mrl_jax.Embedder.load(root / "model")


TEXTS = [
    {"id": f"t{i}", "text": tiny_run.text_of((i % 5, i // 5)), "title": "gu"} for i in range(25)
]


def test_a_model_is_asked_by_speech_text_and_vectors(embedder, root, tmp_path):
    index = mrl_jax.SearchIndex.build(embedder, TEXTS, dim=16)
    index.save(tmp_path / "index")
    clip = tiny_run.clip_of((1, 3), 5)
    soundfile.write(tmp_path / "q.wav", clip, tiny_run.RATE, subtype="FLOAT")
    vectors = embedder.embed_text([f"gu {row['text']}" for row in TEXTS], dim=16)
    speech = embedder.embed_speech([(clip, tiny_run.RATE)], dim=16)
    names = [row["id"] for row in TEXTS]
    for each in (index, SearchIndex.load(tmp_path / "index")):  # The model is found by itself.
        for audio in (tmp_path / "q.wav", (clip, tiny_run.RATE)):
            assert ids(each.search(audio=[audio], k=6)) == best_ids(speech, vectors, 6, names)
        assert ids(each.search(speech, k=6)) == best_ids(speech, vectors, 6, names)
        written = embedder.embed_text(["ba ce"], dim=16, task="find")
        found = each.search(text=["ba ce"], k=6, task="find")
        assert ids(found) == best_ids(written, vectors, 6, names)
        assert found[0][0].title == "gu"
    assert index.model is not None
    assert index.model.digest == embedder.info.digest
    raw = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (tmp_path / "index" / raw["model"]["path"]).resolve() == (root / "model").resolve()


def test_another_model_is_refused(embedder, tmp_path):
    other = mrl_jax.Embedder.load(tiny_run.make_dual_encoder(tmp_path, nested=True))
    index = SearchIndex.build(embedder, TEXTS[:4])
    index.save(tmp_path / "index")
    with pytest.raises(MrlError, match=r"is the index of another model: that has the digest"):
        SearchIndex.load(tmp_path / "index", embedder=other)
    assert len(SearchIndex.load(tmp_path / "index", embedder=embedder)) == 4
    bare = SearchIndex.from_vectors(unit(3, 1), documents(3))
    bare.save(tmp_path / "bare")
    with pytest.raises(MrlError, match="without a model"):
        SearchIndex.load(tmp_path / "bare", embedder=embedder)
    with pytest.raises(MrlError, match="does not say where its model is"):
        SearchIndex.load(tmp_path / "bare").search(text=["ba"], k=1)


def test_a_rotation_belongs_to_the_index(embedder, tmp_path):
    model = tiny_run.make_model(tmp_path / "models")
    fit_model_rotation(model, tiny_run.make_retrieval_set(tmp_path / "set"))
    rotated = mrl_jax.Embedder.load(model, rotation=True)
    index = SearchIndex.build(rotated, TEXTS, dim=8)
    index.save(tmp_path / "index")
    with pytest.raises(MrlError, match=r"was embedded with the rotation .* has no rotation"):
        SearchIndex.load(tmp_path / "index", embedder=mrl_jax.Embedder.load(model))
    again = SearchIndex.load(tmp_path / "index")
    query = rotated.embed_text(["ba ce"], dim=8)
    assert ids(again.search(text=["ba ce"], k=5)) == ids(index.search(query, k=5))
    assert again.embedder.rotation is not None


def test_what_cannot_be_done_is_one_line(tmp_path):
    index = SearchIndex.from_vectors(unit(6, 1), documents(6))
    with pytest.raises(MrlError, match="k is 7, and the index has 6 documents"):
        index.search(unit(1, 2), k=7)
    with pytest.raises(MrlError, match="k is 0"):
        index.search(unit(1, 2), k=0)
    with pytest.raises(MrlError, match="have 5 coordinates, and the index 24"):
        index.search(unit(1, 2, width=5), k=1)
    with pytest.raises(MrlError, match="vector 0 is not finite"):
        index.search(np.full((1, WIDTH), np.nan, np.float32), k=1)
    with pytest.raises(MrlError, match="expected one of vectors, audio and text"):
        index.search(k=1)
    with pytest.raises(MrlError, match="the id 'd0' is that of two documents"):
        SearchIndex.from_vectors(unit(2, 1), [documents(1)[0]] * 2)
    with pytest.raises(MrlError, match="there is no document to index"):
        SearchIndex.from_vectors(unit(0, 1), [])
    with pytest.raises(MrlError, match="3 vectors of 2 documents"):
        SearchIndex.from_vectors(unit(3, 1), documents(2))
    with pytest.raises(MrlError, match="'d3' is in the index already"):
        index.add(documents(1, 3), unit(1, 1))
    with pytest.raises(MrlError, match="no document to add"):
        index.add([], unit(0, 1))
    with pytest.raises(MrlError, match="no document would be left"):
        index.remove([f"d{i}" for i in range(6)])
    with pytest.raises(MrlError, match="'d1' is to be removed twice"):
        index.remove(["d1", "d1"])
    assert len(index) == 6  # Nothing was removed by what failed.
    index.remove(["d1"])
    with pytest.raises(MrlError, match="there is no document 'd1' in the index"):
        index.remove(["d1"])
    with pytest.raises(MrlError, match=r"backend is 'fais-flat'.*mean faiss-flat"):
        SearchIndex.from_vectors(unit(3, 1), documents(3), backend="fais-flat")
    with pytest.raises(MrlError, match="prefix of 24 coordinates is not shorter"):
        SearchIndex.from_vectors(unit(3, 1), documents(3), prefix=24)
    assert index.search(np.zeros((0, WIDTH), np.float32), k=1) == []


def test_a_folder_is_never_half_written_and_never_lost(tmp_path):
    index = SearchIndex.from_vectors(unit(6, 1), documents(6))
    with pytest.raises(MrlError, match="has no folder yet"):
        index.save()
    index.save(tmp_path / "index")
    with pytest.raises(MrlError, match="exists already"):
        SearchIndex.from_vectors(unit(6, 1), documents(6)).save(tmp_path / "index")
    one, two = (SearchIndex.load(tmp_path / "index") for _ in range(2))
    one.remove(["d0"])
    two.remove(["d1"])
    one.save()
    with pytest.raises(MrlError, match="was changed by another process"):
        two.save()
    assert len(SearchIndex.load(tmp_path / "index")) == 5
    index.save(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["documents.jsonl", "offsets.npy", "vectors.npy", "index.json"])
def test_damage_is_one_line(name, tmp_path):
    SearchIndex.from_vectors(unit(6, 1), documents(6)).save(tmp_path / "index")
    path: Path = tmp_path / "index" / name
    content = path.read_bytes()
    path.write_bytes(damaged(content, -9))
    with pytest.raises(MrlError):
        SearchIndex.load(tmp_path / "index")
    path.write_bytes(content[:-9])
    with pytest.raises(MrlError):
        SearchIndex.load(tmp_path / "index", verify=False)
    path.unlink()
    with pytest.raises(MrlError):
        SearchIndex.load(tmp_path / "index")
