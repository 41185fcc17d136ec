"""Texts as recognisers write them: lower case, no punctuation, single spaces."""

import unicodedata

APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def plain_text(text: str) -> str:
    """Lower case in NFC, without punctuation and symbols, words parted by one space.

    Apostrophes inside a word stay, all as '; every other mark parts words, a hyphen too.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(APOSTROPHES)
    kept = (c if c == "'" or unicodedata.category(c)[0] not in "PSC" else " " for c in text)
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)
