"""Text files cut into passages, whose spans lead back to them."""

import pytest

from mrl_jax.data.text.paragraphs import passages_of

MARKDOWN = (
    "# Rain\n\nIt fell.\nAll day.\n\n## Sun ##\nIt shone.\n\n\n  indented\n\n#not a heading\n"
)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_headings_are_titles_and_spans_lead_back(end):
    text = MARKDOWN.replace("\n", end)
    found = list(passages_of(text))
    assert [passage.title for passage in found] == ["Rain", "Sun", "Sun", "Sun"]
    assert [" ".join(passage.text.split()) for passage in found] == [
        "It fell. All day.",
        "It shone.",
        "indented",
        "#not a heading",
    ]
    assert [text[slice(*passage.span)] for passage in found] == [p.text for p in found]


def test_a_short_first_line_is_a_title_and_a_sentence_is_not():
    assert [p.title for p in passages_of("Une fable\n\nLe loup vint.")] == ["Une fable"]
    assert [p.title for p in passages_of("Le loup vint.\n\nIl partit.")] == [None, None]
    assert [p.text for p in passages_of("only a line")] == ["only a line"]
    assert list(passages_of("")) == list(passages_of(" \n\n\t\n")) == []


@pytest.mark.parametrize("sentence", ["One two three. ", "wordswithoutend", "mots sans fin "])
def test_long_paragraphs_are_cut_and_nothing_is_lost(sentence):
    text = sentence * 40
    found = list(passages_of(text, longest=100))
    assert len(found) > 3
    assert all(0 < len(passage.text) <= 100 for passage in found)
    assert [text[slice(*passage.span)] for passage in found] == [p.text for p in found]
    assert "".join("".join(p.text.split()) for p in found) == "".join(text.split())
    if "." in sentence:
        assert all(passage.text.endswith(".") for passage in found)
