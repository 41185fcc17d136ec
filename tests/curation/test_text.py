"""What is measured of texts, and boilerplate."""

from typing import Any

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.registry import make_stage
from mrl_jax.curation.rows import Row
from mrl_jax.curation.text import (
    Text,
    TextConfig,
    measure_text,
    recurring_lines,
    script_of,
    without_lines,
)


def run(rows: list[Row], **config) -> list[Row]:
    return Text(TextConfig(**config)).apply(rows)


@pytest.mark.parametrize(
    ("text", "script", "share", "words", "digits"),
    [
        ("mósωngώsώ ngá 12", "Latn", 9 / 12, 3, 2 / 14),
        ("\u0416\u0436\u0434, mi", "Cyrl", 3 / 5, 2, 0.0),
        ("ab \u0645\u0631 ", "Arab", 0.5, 2, 0.0),  # A tie: the first by name.
        ("12:30 !", "none", 0.0, 2, 4 / 6),
        ("", "none", 0.0, 0, 0.0),
    ],
)
def test_measures(text, script, share, words, digits):
    values = measure_text(text)
    assert (values["script"], values["words"]) == (script, words)
    assert values["script_share"] == pytest.approx(share)
    assert values["digits"] == pytest.approx(digits)
    assert values["characters"] == len(text)


def test_scripts_are_those_of_unicode():
    codes = [script_of(c) for c in "aωж\u0644\u4e2d\u0f40ŋ1 \u0301"]
    assert codes == ["Latn", "Grek", "Cyrl", "Arab", "Hani", "Tibt", "Latn", "Zyyy", "Zyyy", "Zinh"]


def test_texts_are_put_in_one_normal_form_and_the_row_says_so():
    [row, same] = run([Row(id="a", text="cafe\u0301", transcript="ﬁn"), Row(id="b", text="café")])
    assert row.text == same.text == "café"
    assert row.transcript == "ﬁn"
    assert row.history == ("text: text in NFC",)
    assert same.history == ()
    [wide] = run([Row(id="a", text="ﬁn")], normal_form="NFKC")
    assert wide.text == "fin"


def test_a_ratio_takes_both_texts():
    rows = run([Row(id="a", text="four", transcript="twotwo"), Row(id="b", text="one")])
    assert rows[0].measured["text.ratio"] == 1.5
    assert rows[0].measured["text.transcript_characters"] == 6
    assert "text.ratio" not in rows[1].measured
    assert not any(key.startswith("text.transcript") for key in rows[1].measured)


def pages(count: int) -> list[str]:
    return [
        f"Subscribe now!\nStory number {i} of {i * 7}\n\nAll rights reserved" for i in range(count)
    ]


def test_recurring_lines_are_those_of_different_documents():
    assert recurring_lines(pages(5), 5) == {"subscribe now", "all rights reserved"}
    assert recurring_lines(pages(4), 5) == frozenset()
    assert recurring_lines(pages(1) * 9, 5) == frozenset()  # One document, nine times.
    assert recurring_lines(["Yes"] * 9, 5) == frozenset()  # A sentence that many clips say.


def test_boilerplate_is_measured_and_removed_on_request():
    rows = [Row(id=str(i), text=text) for i, text in enumerate(pages(5))]
    measured = run(rows, recurring=5)
    assert [row.text for row in measured] == [row.text for row in rows]
    share = 1 - len("Story number 1 of 7") / len(pages(5)[1])
    assert measured[1].measured["text.boilerplate"] == pytest.approx(share, abs=1e-6)
    removed = run(rows, recurring=5, remove_boilerplate=True)
    assert removed[1].text == "Story number 1 of 7"
    assert "characters of lines that recur" in removed[1].history[0]


def test_a_document_of_boilerplate_alone_is_dropped():
    rows = [Row(id=str(i), text=text) for i, text in enumerate(pages(5))]
    rows.append(Row(id="x", text="Subscribe now\nAll rights reserved."))
    last = run(rows, recurring=5, remove_boilerplate=True)[-1]
    assert last.dropped == "text: every line recurs in many documents"


def test_lines_stay_as_they_are_where_none_recurs():
    assert without_lines("a\r\nb\n", frozenset({"x"})) == "a\r\nb\n"
    assert without_lines("A!\nb", frozenset({"a"})) == "b"


def test_the_registry_makes_it_and_it_says_what_it_measures():
    stage: Any = make_stage(TextConfig(name="t"))
    [row] = stage.apply([Row(id="a", text="one", transcript="two")])
    assert set(row.measured) == set(stage.measures)


def test_impossible_settings_are_refused():
    with pytest.raises(MrlError, match="recurring is 1, expected 2 or more"):
        TextConfig(recurring=1)
    with pytest.raises(MrlError, match="normal_form is 'NFX'"):
        TextConfig(normal_form="NFX")  # pyright: ignore[reportArgumentType]
