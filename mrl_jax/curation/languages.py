"""Which language each text is in, and how much of it is in another."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from mrl_jax.core.arguments import Fraction, PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, existing_file
from mrl_jax.core.extras import require
from mrl_jax.core.paths import PathText, user_path
from mrl_jax.curation.language_identifier import LanguageIdentifier, folds_of
from mrl_jax.curation.lingua_detector import LinguaDetector, check_codes
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import StageConfig, StageReport, TableStage
from mrl_jax.data.text.normalize import plain_text

FIELDS = {"text": "text_language", "transcript": "language"}
"""What is identified, and the field of a row that says what it should be in."""
_UNKNOWN = "unknown"


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguagesConfig(StageConfig):
    """Language identification by the user's own texts, and by lingua.

    Attributes:
        name: of the stage.
        training: language: a file of its texts, one a line, to train on besides the rows whose
            language is known.
        rows: train on the rows too.
        least_texts: different texts that a language is trained on, or it is refused.
        most_texts: of a language that are read.
        lingua: codes (ISO 639-3) of languages that lingua is to look for as well.
        window: words that are judged at once for the share in another language.
        certain: probability from which such a window counts, and from which lingua overrules.
    """

    name: str = "languages"
    training: Mapping[str, PathText] = dataclasses.field(default_factory=dict)
    rows: bool = True
    least_texts: PositiveInt = 20
    most_texts: PositiveInt = 5000
    lingua: tuple[str, ...] = ()
    window: PositiveInt = 4
    certain: Fraction = 0.9

    def __post_init__(self) -> None:
        if "" in self.training:
            raise MrlError("training names no language for a file", hint="training.CODE=FILE")
        if self.lingua:
            check_codes(self.lingua)
        elif not self.rows and len(self.training) < 2:
            problem = f"{len(self.training)} languages are known, expected two or more"
            raise MrlError(problem, hint="name files in `training`, or languages in `lingua`")


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """Of each text its language, the probability of it, and of the one it should be in.

    Attributes:
        expected: NaN where nobody says what it should be in, or no model knows that language.
    """

    languages: tuple[str, ...]
    confidence: Float64[HostArray, " N"]
    expected: Float64[HostArray, " N"]


class Languages(TableStage):
    """Measures of a text `text`, `confidence`, `expected` and `switched`; of a transcript
    `transcript`, and the others after "transcript_".

    `expected` is the probability of the row's own language: the measure to filter by.
    """

    def __init__(self, config: LanguagesConfig):
        self.name, self.config = config.name, config
        self.extra_inputs = tuple(
            str(existing_file(user_path(path), hint="correct its path in `training`"))
            for path in config.training.values()
        )
        lingua = ("lingua-language-detector",) if config.lingua else ()
        self.packages = ("scikit-learn", *lingua)
        keys = ("confidence", "expected", "switched")
        of_transcript = ("transcript", *(f"transcript_{key}" for key in keys))
        self.measures = tuple(f"{self.name}.{key}" for key in ("text", *keys, *of_transcript))

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        require("sklearn", by=f"stage {self.name!r}", extra="curate")
        judge = Judge(self.config, *self._training(rows), where=f"stage {self.name!r}")
        result = list(rows)
        for field, declared in FIELDS.items():
            places = [i for i, row in enumerate(rows) if plain_text(getattr(row, field) or "")]
            texts = [getattr(rows[i], field) for i in places]
            found = judge.verdicts(texts, [getattr(rows[i], declared) for i in places])
            switched = judge.switched(texts, found.languages)
            prefix = "" if field == "text" else f"{field}_"
            for number, i in enumerate(places):
                values = {
                    field: found.languages[number],
                    f"{prefix}confidence": float(found.confidence[number]),
                    f"{prefix}switched": float(switched[number]),
                }
                if not np.isnan(found.expected[number]):
                    values[f"{prefix}expected"] = float(found.expected[number])
                result[i] = result[i].with_measured(self.name, **values)
        return result

    def _training(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        """Texts and their languages, different texts only, no more of a language than allowed.

        Raises:
            MrlError: a language with too few texts.
        """
        by_language: dict[str, dict[str, str]] = {}
        for language, text in self._all_training(rows):
            if plain := plain_text(text):
                by_language.setdefault(language, {}).setdefault(plain, text)
        texts, labels = [], []
        for language, different in sorted(by_language.items()):
            if len(different) < self.config.least_texts:
                problem = (
                    f"{len(different)} different texts in {language!r} to train on, expected "
                    f"{self.config.least_texts} or more"
                )
                hint = f"add a file: training.{language}=FILE, or correct the rows' language"
                raise MrlError(problem, where=f"stage {self.name!r}", hint=hint)
            step = max(len(different) / self.config.most_texts, 1.0)
            kept = list(different.values())
            kept = [kept[int(i * step)] for i in range(int(len(kept) / step))]
            texts += kept
            labels += [language] * len(kept)
        return texts, labels

    def _all_training(self, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
        for language, path in self.config.training.items():
            for line in _lines(user_path(path)):
                yield language, line
        if not self.config.rows:
            return
        for row in rows:
            for field, declared in FIELDS.items():
                text, language = getattr(row, field), getattr(row, declared)
                if text is not None and language is not None:
                    yield language, text

    def report(self, before: Sequence[Row], after: Sequence[Row]) -> StageReport | None:
        """Rows by the language that they say and the one that was found."""
        counts = Counter(
            (field, getattr(row, declared) or _UNKNOWN, str(row.measured[f"{self.name}.{field}"]))
            for row in after
            for field, declared in FIELDS.items()
            if f"{self.name}.{field}" in row.measured
        )
        table = tuple((*names, f"{count:,}") for names, count in sorted(counts.items()))
        return StageReport(
            title="Languages", headings=("of", "as declared", "as found", "rows"), table=table
        )


class Judge:
    """Both identifiers as one.

    The one that was trained decides. Where it says a language that lingua knows as well, and
    lingua is certain of another one, lingua is right: it was trained on clean texts, and a model
    can only say what it knows.

    Raises:
        MrlError: fewer than two languages in all.
    """

    def __init__(
        self, config: LanguagesConfig, texts: Sequence[str], labels: Sequence[str], *, where: str
    ):
        self._config = config
        trained = len(set(labels)) > 1
        self._own = LanguageIdentifier(texts, labels) if trained else None
        self._lingua = LinguaDetector(config.lingua) if config.lingua else None
        if self._own is None and self._lingua is None:
            problem = f"{len(set(labels))} language is known, expected two or more"
            hint = "name files in `training`, or languages in `lingua`, and say the rows' language"
            raise MrlError(problem, where=where, hint=hint)

    def verdicts(self, texts: Sequence[str], declared: Sequence[str | None]) -> Verdicts:
        """The language of each text; `declared` is what each should be in."""
        names, chances = self._probabilities(texts, folds_of(texts))
        best = chances.argmax(axis=1) if len(texts) else np.zeros(0, np.int64)
        places = {name: column for column, name in enumerate(names)}
        expected = [
            chances[row, places[name]] if name in places else np.nan
            for row, name in enumerate(declared)
        ]
        found = tuple(names[column] for column in best)
        confidence = chances.max(axis=1, initial=0.0)
        return Verdicts(found, confidence, np.asarray(expected, np.float64))

    def switched(self, texts: Sequence[str], languages: Sequence[str]) -> Float64[HostArray, " N"]:
        """Of each text the share of its windows that are certainly not in its language."""
        windows = [_windows(text, self._config.window) for text in texts]
        counts = np.array([len(some) for some in windows], np.int64)
        owners = np.repeat(np.arange(len(texts)), counts)
        flat = [window for some in windows for window in some]
        names, chances = self._probabilities(flat, folds_of(texts)[owners])
        if not flat:
            return np.zeros(len(texts))
        known = np.array([*names, ""])
        other = known[chances.argmax(axis=1)] != np.asarray(languages)[owners]
        other &= chances.max(axis=1) >= self._config.certain
        return np.bincount(owners, other, minlength=len(texts)) / np.maximum(counts, 1)

    def _probabilities(
        self, texts: Sequence[str], folds: Int64[HostArray, " N"]
    ) -> tuple[tuple[str, ...], Float64[HostArray, "N L"]]:
        """Languages of either identifier, and their probabilities."""
        if self._lingua is None or self._own is None:
            one = self._own.probabilities(texts, folds) if self._own else None
            if one is None:
                assert self._lingua is not None
                return self._lingua.languages, self._lingua.probabilities(texts)
            assert self._own is not None
            return self._own.languages, one
        own, lingua = self._own.probabilities(texts, folds), self._lingua.probabilities(texts)
        more = [name for name in self._lingua.languages if name not in self._own.languages]
        names = [*self._own.languages, *more]
        both = np.concatenate([own, np.zeros((len(texts), len(more)))], axis=1)
        if not len(texts):
            return tuple(names), both
        columns = np.array([names.index(name) for name in self._lingua.languages])
        said = own.argmax(axis=1)
        other = columns[lingua.argmax(axis=1)] != said
        sure = lingua.max(axis=1) >= self._config.certain
        overruled = np.flatnonzero(np.isin(said, columns) & other & sure)
        both[overruled] = 0
        both[overruled[:, None], columns] = lingua[overruled]
        return tuple(names), both


def _windows(text: str, words: int) -> list[str]:
    """A text in runs of so many words; a short rest belongs to the last run."""
    split = text.split()
    runs = max(len(split) // words, 1)
    ends = [words * number for number in range(runs)] + [len(split)]
    return [" ".join(split[a:b]) for a, b in itertools.pairwise(ends)]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MrlError(
            "is not UTF-8", where=path, hint="write it in UTF-8, a text a line"
        ) from error
