"""Texts as recognisers write them: lower case, no punctuation, single spaces."""

import unicodedata

APOSTROPHES = "'\u2019\u02bc"


def plain_text(text: str) -> str:
    """Lower case in NFC, without punctuation and symbols, words parted by one space.

    Apostrophes inside a word stay, all as '; every other mark parts words, a hyphen too.
    """
    text = unicodedata.normalize("NFC", text).lower()
    kept = [
        "'"
        if letter in APOSTROPHES
        else " "
        if unicodedata.category(letter)[0] in "PSC"
        else letter
        for letter in text
    ]
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)
