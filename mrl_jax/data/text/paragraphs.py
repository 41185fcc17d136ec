"""A text file cut into passages: its paragraphs, each with its heading and its place."""

import dataclasses
import re
from collections.abc import Iterator

LONGEST = 1000
"""Characters of a passage; a longer paragraph is cut at the end of a sentence, or at a space."""
_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n[^\S\n]*\S[^\n]*)*")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")
SENTENCE_END = re.compile(r"[.!?…。؟\uff01\uff1f]['\"»”)\]]*\s+")
_TITLE = 80
"""Characters up to which a first paragraph of one line without a full stop is a title."""


@dataclasses.dataclass(frozen=True)
class Passage:
    """A part of a text.

    Attributes:
        text: as it stands there, without space around it.
        title: the heading above it; None without one.
        span: its first character in the whole text, and the one behind its last.
    """

    text: str
    title: str | None
    span: tuple[int, int]


def passages_of(text: str, *, longest: int = LONGEST) -> Iterator[Passage]:
    """The paragraphs of a text; headings are titles of those below them.

    A heading is a line of Markdown (`# ...`), or a first line that is short, stands alone and does
    not end as a sentence does.

    Args:
        text: of a whole file.
        longest: characters of a passage.
    """
    title: str | None = None
    for number, match in enumerate(_PARAGRAPH.finditer(text)):
        start, body = match.start(), match[0].rstrip()
        first, _, rest = body.partition("\n")
        if heading := _HEADING.fullmatch(first.rstrip()):
            title = heading[1] or None
            start, body = start + len(first) + 1, rest
        elif number == 0 and "\n" not in body and _is_title(body, text[match.end() :]):
            title, body = body, ""
        for begin, end in _cuts(body, longest):
            part = body[begin:end]
            left = begin + len(part) - len(part.lstrip())
            part = part.strip()
            if part:
                span = (start + left, start + left + len(part))
                yield Passage(part, title, span)


def _is_title(line: str, below: str) -> bool:
    return len(line) <= _TITLE and line[-1] not in ".!?…,;:。؟\uff01\uff1f" and bool(below.strip())


def _cuts(body: str, longest: int) -> Iterator[tuple[int, int]]:
    """Begin and end of parts of at most `longest` characters."""
    begin = 0
    while len(body) - begin > longest:
        window = body[begin : begin + longest + 1]
        ends = [match.end() for match in SENTENCE_END.finditer(window)]
        spaces = [match.end() for match in re.finditer(r"\s+", window)]
        # A cut in the first half would leave a short part where a long one has room.
        cut = (
            next((e for e in reversed(ends) if 2 * e > longest), None) or (spaces or [longest])[-1]
        )
        yield begin, begin + min(cut, longest)
        begin += min(cut, longest)
    yield begin, len(body)
