"""What a text is like: its script, its length, its digits, lines that recur in many documents."""

import dataclasses
import functools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from mrl_jax.core.arguments import Range, checked
from mrl_jax.core.extras import require
from mrl_jax.curation.rows import Measure, Row
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.data.text.normalize import plain_text

_COMMON = ("Zyyy", "Zinh", "Zzzz")
"""Unicode's scripts of what all scripts share: digits, marks, spaces."""
OF_TEXT = ("script", "script_share", "characters", "words", "digits")
NO_SCRIPT = "none"


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(StageConfig):
    """Texts in one normal form, and what is measured of them.

    Attributes:
        name: of the stage.
        normal_form: of Unicode, for texts and transcripts. NFKC also replaces ligatures and
            characters of double width, which changes what was written.
        recurring: a line that stands in so many documents of several lines is boilerplate.
        remove_boilerplate: take such lines out; a document of nothing else is dropped.
    """

    name: str = "text"
    normal_form: Literal["NFC", "NFKC"] = "NFC"
    recurring: Annotated[int, Range(2.0)] = 10
    remove_boilerplate: bool = False


class Text(TableStage):
    """Normalises and measures text and transcript.

    Measures of a text `script`, `script_share`, `characters`, `words`, `digits`, `boilerplate`; of
    a transcript all but the last, after "transcript_"; of both, `ratio`.
    """

    packages = ("fonttools",)

    def __init__(self, config: TextConfig):
        self.name, self.config = config.name, config
        keys = [*OF_TEXT, "boilerplate", *(f"transcript_{key}" for key in OF_TEXT), "ratio"]
        self.measures = tuple(f"{self.name}.{key}" for key in keys)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        require("fontTools", by=f"stage {self.name!r}")
        rows = [self._normalised(row) for row in rows]
        texts = [row.text for row in rows if row.text is not None]
        recurring = recurring_lines(texts, self.config.recurring)
        return [self._measured(row, recurring) for row in rows]

    def _normalised(self, row: Row) -> Row:
        form = self.config.normal_form
        for name in ("text", "transcript"):
            old = getattr(row, name)
            if old is not None and (new := unicodedata.normalize(form, old)) != old:
                row = dataclasses.replace(row, **{name: new}).note(self.name, f"{name} in {form}")
        return row

    def _measured(self, row: Row, recurring: frozenset[str]) -> Row:
        values: dict[str, Measure] = {}
        if row.text is not None:
            rest = without_lines(row.text, recurring)
            removed = len(row.text) - len(rest)
            values["boilerplate"] = removed / max(len(row.text), 1)
            if removed and self.config.remove_boilerplate:
                lines = f"{removed} characters of lines that recur in many documents removed"
                row = dataclasses.replace(row, text=rest).note(self.name, lines)
            values |= measure_text(row.text or "")
        if row.transcript is not None:
            of = measure_text(row.transcript)
            values |= {f"transcript_{key}": value for key, value in of.items()}
            if row.text:
                values["ratio"] = len(row.transcript) / len(row.text)
        row = row.with_measured(self.name, **values)
        if row.text == "" and values["boilerplate"]:
            return row.drop(self.name, "every line recurs in many documents")
        return row

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """Rows by the script of their text."""
        scripts = Counter(str(row.measured.get(f"{self.name}.script", "no text")) for row in after)
        table = tuple((script, f"{count:,}") for script, count in scripts.most_common())
        return StageReport(title="Texts", headings=("script", "rows"), table=table)


def measure_text(text: str) -> Mapping[str, Measure]:
    """Script, its share of the letters, characters, words, and the share of digits.

    Characters are counted in NFC as they are; digits are a share of what is no space.
    """
    scripts = Counter(script for c in text if (script := script_of(c)) not in _COMMON)
    letters = scripts.total()
    # The more frequent script, then the first by name: the same in every process.
    script, count = min(scripts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
    written = sum(not c.isspace() for c in text)
    return {
        "script": script or NO_SCRIPT,
        "script_share": count / letters if letters else 0.0,
        "characters": len(text),
        "words": len(text.split()),
        "digits": sum(c.isdigit() for c in text) / max(written, 1),
    }


@functools.lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """Unicode's script of a character, by its code of four letters (ISO 15924)."""
    from fontTools.unicodedata import script

    return str(script(character))


def recurring_lines(texts: Sequence[str], least: int) -> frozenset[str]:
    """Lines, in plain text, that `least` different documents of several lines hold.

    A sentence that many clips say is no boilerplate: documents of one line do not count.
    """
    documents = {tuple(_lines(text)) for text in texts if "\n" in text}
    counts = Counter(line for document in documents for line in set(document) if line)
    return frozenset(line for line, count in counts.items() if count >= least)


def without_lines(text: str, recurring: frozenset[str]) -> str:
    """The text without its recurring lines; as it is where it has none."""
    if "\n" not in text or recurring.isdisjoint(lines := _lines(text)):
        return text
    kept = zip(text.split("\n"), lines, strict=True)
    return "\n".join(line for line, plain in kept if plain not in recurring).strip()


def _lines(text: str) -> list[str]:
    return [plain_text(line) for line in text.split("\n")]
