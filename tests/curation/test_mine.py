"""Stage `mine` with a tiny model: who is paired with whom, negatives, and what is refused."""

import json

import numpy as np
import pytest
import soundfile
import tiny_run

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.margin import margin_pairs
from mrl_jax.curation.mine import Mine, MineConfig, negative_rows
from mrl_jax.curation.pipeline import make_stages
from mrl_jax.curation.rows import Row
from mrl_jax.curation.split import SplitConfig
from mrl_jax.inference.embedder import Embedder

WORDS = ((0, 1), (2, 3), (4, 0), (1, 2))
TEXTS = [tiny_run.text_of(words) for words in WORDS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_run.make_model(tmp_path_factory.mktemp("mine"))


@pytest.fixture(scope="module")
def rows(model):
    rows = []
    for number, words in enumerate(WORDS):
        path = model.parent / f"{number}.wav"
        soundfile.write(path, tiny_run.clip_of(words, number), tiny_run.RATE)
        rows.append(Row(id=f"s{number}", audio=str(path), transcript=TEXTS[number]))
    texts = [Row(id=f"t{i}", text=text, document_id=f"d{i}") for i, text in enumerate(TEXTS)]
    return [*rows, *texts, Row(id="both", audio=rows[0].audio, text="ba gu")]


def test_clips_get_the_documents_of_the_best_margins(model, rows):
    out = Mine(MineConfig(model=str(model), min_margin=0.0, k=2)).apply(rows)
    embedder = Embedder.load(model)
    speech = embedder.embed_speech([row.audio for row in rows[:4]])
    wanted = margin_pairs(speech, embedder.embed_text(TEXTS), k=2)
    assert [row.id for row in out] == [row.id for row in rows]
    for one, other, margin in zip(wanted.first, wanted.second, wanted.margins, strict=True):
        row = out[one]
        assert row.measured["mine.margin"] == pytest.approx(margin, abs=1e-4)
        if margin < 0:  # The model is random.
            assert row.text is None
            continue
        assert (row.text, row.document_id) == (TEXTS[other], f"d{other}")
        assert row.history == (f"mine: paired with t{other}, margin {margin:.2f}",)
    assert any(row.text for row in out[:4])
    assert out[4:] == rows[4:]
    # None is good enough: measured, and left alone.
    none = Mine(MineConfig(model=str(model), min_margin=99.0, k=2)).apply(rows)
    assert all(row.text is None for row in none[:4])
    assert [row.measured for row in none[:4]] == [row.measured for row in out[:4]]
    report = Mine(MineConfig(model=str(model), min_margin=99.0)).report(rows, none)
    assert [cells[1] for cells in report.table] == ["4", "0", "4", "0"]
    paired = sum(row.text is not None for row in out[:4])
    report = Mine(MineConfig(model=str(model), min_margin=0.0)).report(rows, out)
    assert [cells[1] for cells in report.table] == ["4", str(paired), str(4 - paired), "0"]


def test_transcripts_are_paired_where_asked(model, rows):
    written = [Row(id=f"w{i}", transcript=text) for i, text in enumerate(TEXTS)]
    config = MineConfig(model=str(model), queries="transcript", min_margin=0.0)
    out = Mine(config).apply([*written, *rows[4:8]])
    # The very same texts are the nearest.
    assert [row.text for row in out[:4]] == TEXTS
    speech = Mine(MineConfig(model=str(model), min_margin=0.0)).apply([*written, *rows[4:8]])
    assert all(row.text is None for row in speech[:4])


def test_negatives_are_rows_of_other_documents(model, rows):
    copies = [Row(id=f"c{i}", text=f"{text} ", document_id=f"d{i}") for i, text in enumerate(TEXTS)]
    config = MineConfig(model=str(model), queries="none", negatives=2, max_cosine=1.0)
    out = Mine(config).apply([*rows, *copies])
    named = [row for row in out if "mine.negatives" in row.measured]
    assert [row.id for row in named] == [
        *(f"t{i}" for i in range(4)),
        "both",
        *(c.id for c in copies),
    ]
    documents = {row.id: row.document_id for row in out}
    for row in named:
        others = json.loads(str(row.measured["mine.negatives"]))
        assert len(others) == 2
        assert row.document_id not in [documents[other] for other in others]
    table = negative_rows(out)
    texts = {row.id: row.text for row in out}
    assert table[0]["negatives"] == [
        texts[i] for i in json.loads(str(named[0].measured["mine.negatives"]))
    ]


def test_negatives_are_of_the_rows_own_split(model):
    rows = [
        Row(id=f"{split}{i}", text=text, document_id=f"d{i}", split=split)
        for split in ("train", "test", None)
        for i, text in enumerate([*TEXTS, "ba gu"])
        if split != "test" or i % 2 == 0
    ]
    config = MineConfig(model=str(model), queries="none", negatives=9, max_cosine=1.0)
    out = Mine(config).apply(rows)
    splits = {row.id: row.split or "train" for row in out}
    for row in out:
        others = json.loads(str(row.measured["mine.negatives"]))
        assert {splits[other] for other in others} == {splits[row.id]}
        # All other documents of the split.
        assert len(others) == (2 if row.split == "test" else 4)


def test_negatives_of_older_code_are_not_gone_on_from(model):
    """They were of other splits too; pairs are what they were."""
    assert Mine(MineConfig(model=str(model), negatives=1)).version == 1
    assert Mine(MineConfig(model=str(model))).version == 0


def test_negatives_come_after_the_splits(model):
    mine, split = MineConfig(model=str(model), negatives=1), SplitConfig()
    make_stages([split, mine], seed=0)
    make_stages([MineConfig(model=str(model)), split], seed=0)  # Pairs alone come before.
    with pytest.raises(MrlError, match="stage 'split': comes after 'mine'"):
        make_stages([mine, split], seed=0)


def test_a_broken_clip_is_dropped_and_the_others_are_paired(model, rows, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.ones(40) * 0.1, tiny_run.RATE)
    broken = Row(id="gone", audio=str(tmp_path / "no.wav"))
    out = Mine(MineConfig(model=str(model), min_margin=0.0)).apply(
        [broken, Row(id="short", audio=str(path)), *rows]
    )
    assert out[0].dropped is not None
    assert "no such file" in out[0].dropped
    assert out[1].dropped is not None
    assert "the clip is 0.00 s long" in out[1].dropped
    assert any("mine.margin" in row.measured for row in out[2:6])


def test_what_cannot_be_mined_is_refused_before_anything_runs(model, tmp_path):
    with pytest.raises(MrlError, match=r"stages\.mine\.model: is empty"):
        MineConfig(model="")
    with pytest.raises(MrlError, match="neither pairs nor negatives"):
        MineConfig(model=str(model), queries="none")
    with pytest.raises(MrlError, match="there is no task 'other'"):
        Mine(MineConfig(model=str(model), task="other"))
    Mine(MineConfig(model=str(model), task="find"))
    with pytest.raises(MrlError):
        Mine(MineConfig(model=str(tmp_path)))
