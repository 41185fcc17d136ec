"""Languages of rows: those trained on, those that lingua knows, and texts that switch."""

import random
import sys
from typing import Any

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.languages import Languages, LanguagesConfig
from mrl_jax.curation.registry import make_stage
from mrl_jax.curation.rows import Row
from mrl_jax.demo.grammar import phrases

COUNT = 300
ENGLISH = "Where is the nearest hospital, please? I have lost my way in the city."
SPANISH = "¿Dónde está el hospital más cercano, por favor? Me he perdido en la ciudad."


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    drawn = random.Random(1).sample(phrases(), COUNT)
    known: Any = {"language": "wol", "text_language": "fra"}
    return [
        Row(id=str(i), text=phrase.french, transcript=phrase.wolof, **known)
        for i, phrase in enumerate(drawn)
    ]


def number(row: Row, name: str) -> float:
    return float(row.measured[f"languages.{name}"])


def with_text(rows: list[Row], text: str) -> list[Row]:
    return [*rows, Row(id="odd", text=text, text_language="fra")]


def test_rows_in_the_wrong_language_are_found(rows):
    swapped = [
        Row(id=f"w{i}", text=row.transcript, text_language="fra") for i, row in enumerate(rows[:15])
    ]
    stage: Any = make_stage(LanguagesConfig())
    found = stage.apply([*rows[15:], *swapped])
    expected = [number(row, "expected") for row in found]
    assert min(expected[:-15]) > 0.5 > max(expected[-15:])
    assert [row.measured["languages.text"] for row in found[-15:]] == ["wol"] * 15
    assert found[0].measured["languages.transcript"] == "wol"
    assert set(found[0].measured) == set(stage.measures)
    # Rows that nobody labels are identified too, but nothing is expected of them.
    [*_, free] = stage.apply([*rows, Row(id="free", text=rows[0].transcript)])
    assert free.measured["languages.text"] == "wol"
    assert "languages.expected" not in free.measured


def test_lingua_overrules_for_a_language_that_was_not_trained(rows):
    own = Languages(LanguagesConfig()).apply(with_text(rows, SPANISH))[-1]
    assert own.measured["languages.text"] in ("fra", "wol")  # It knows no other.
    config = LanguagesConfig(lingua=("fra", "eng", "spa"))
    for text, language in ((SPANISH, "spa"), (ENGLISH, "eng")):
        found = Languages(config).apply(with_text(rows, text))
        assert found[-1].measured["languages.text"] == language
        assert number(found[-1], "expected") < 0.1
    # What it does not know it does not overrule.
    assert all(row.measured["languages.transcript"] == "wol" for row in found[:-1])
    share = sum(row.measured["languages.text"] == "fra" for row in found[:-1]) / COUNT
    assert share > 0.97


def test_wrong_rows_that_vouch_for_each_other_are_left_to_lingua(rows, tmp_path):
    """Alike texts under one wrong label are in every fold; the trained model learns the label."""
    things = [
        "agent",
        "account",
        "conference",
        "password",
        "extension",
        "caller",
        "mailbox",
        "ticket",
    ]
    wrong = [f"Please enter your {thing} number followed by the pound key" for thing in things]
    odd = [Row(id=f"w{i}", text=text, text_language="fra") for i, text in enumerate(wrong)]
    path = tmp_path / "eng.txt"
    lines = [f"the {a} of the market was {b} in the morning" for a in things for b in things]
    path.write_text("\n".join(lines), encoding="utf-8")
    training = {"eng": str(path)}
    own = Languages(LanguagesConfig(training=training)).apply([*rows, *odd])[-8:]
    assert any(number(row, "expected") > 0.5 for row in own)
    both = LanguagesConfig(training=training, lingua=("fra", "eng"))
    found = Languages(both).apply([*rows, *odd])[-8:]
    assert all(number(row, "expected") < 0.1 for row in found)


def test_lingua_alone(rows):
    config = LanguagesConfig(rows=False, lingua=("fr", "es"))
    found = Languages(config).apply([Row(id="a", text=SPANISH, text_language="fr")])[0]
    assert found.measured["languages.text"] == "es"
    assert number(found, "expected") < 0.1


def test_files_bring_languages_that_no_row_has(rows, tmp_path):
    words = [
        "street",
        "market",
        "river",
        "house",
        "water",
        "mother",
        "father",
        "child",
        "road",
        "village",
        "bread",
    ]
    rng = random.Random(0)
    lines = [f"the {rng.choice(words)} and the {rng.choice(words)} of {i}" for i in range(60)]
    path = tmp_path / "eng.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    stage = Languages(LanguagesConfig(training={"eng": str(path)}))
    assert stage.extra_inputs == (str(path),)
    odd = stage.apply(with_text(rows, "the river and the bread of the village"))[-1]
    assert odd.measured["languages.text"] == "eng"


def test_switched_is_the_share_of_windows_in_another_language(rows):
    french = "je vais au marché avec ma grand-mère demain"
    wolof = "dinaa dem marse ak sama maam suba"
    stage = Languages(LanguagesConfig())
    [*_, mixed, whole] = stage.apply(
        [*with_text(rows, f"{french} {french} {wolof}"), Row(id="whole", text=french)]
    )
    assert mixed.measured["languages.text"] == "fra"
    assert 0.1 < number(mixed, "switched") < 0.5
    assert whole.measured["languages.switched"] == 0


def test_texts_without_a_letter_are_left_alone(rows):
    odd = Languages(LanguagesConfig()).apply(with_text(rows, "?! …"))[-1]
    assert odd.measured == {}


def test_the_same_rows_give_the_same_numbers(rows):
    stage = Languages(LanguagesConfig())
    assert stage.apply(rows) == stage.apply(rows)
    fewer = Languages(LanguagesConfig(most_texts=50)).apply(rows)
    assert fewer != stage.apply(rows)


def test_too_few_texts_are_refused_by_language(rows):
    odd = Row(id="odd", text="one text", text_language="xyz")
    with pytest.raises(MrlError, match=r"1 different texts in 'xyz' to train on, expected 20"):
        Languages(LanguagesConfig()).apply([*rows, odd])
    same = [Row(id=f"s{i}", text="one text!", text_language="xyz") for i in range(30)]
    with pytest.raises(MrlError, match="1 different texts in 'xyz'"):
        Languages(LanguagesConfig()).apply([*rows, *same])


def test_one_language_is_refused(rows):
    french = [Row(id=row.id, text=row.text, text_language="fra") for row in rows]
    with pytest.raises(MrlError, match=r"1 language is known, expected two or more"):
        Languages(LanguagesConfig()).apply(french)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"lingua": ("fra", "englsh")}, "lingua knows no language 'englsh'"),
        ({"lingua": ("fra", "wol")}, "lingua knows no language 'wol'"),
        ({"lingua": ("fra",)}, "expected two or more different languages"),
        ({"lingua": ("fra", "fr")}, "expected two or more different languages"),
        ({"rows": False}, "0 languages are known"),
        ({"certain": 1.5}, "certain is 1.5, expected 0 to 1"),
        ({"window": 0}, "window is 0, expected 1 or more"),
    ],
)
def test_impossible_settings_are_refused(config, problem):
    with pytest.raises(MrlError, match=problem):
        LanguagesConfig(**config)


def test_bad_files_are_refused(rows, tmp_path):
    with pytest.raises(MrlError, match="no such file"):
        Languages(LanguagesConfig(training={"eng": str(tmp_path / "none.txt")}))
    path = tmp_path / "latin.txt"
    path.write_bytes("é\n".encode("latin-1") * 30)
    with pytest.raises(MrlError, match="is not UTF-8"):
        Languages(LanguagesConfig(training={"eng": str(path)})).apply(rows)


def test_without_lingua_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(MrlError, match=r"lingua, which is not installed.*mrl_jax\[curate\]"):
        LanguagesConfig(lingua=("fra", "eng"))
