"""`lingua`, for the languages that it was published with: an optional package."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.nearest import did_you_mean


class LinguaDetector:
    """Probabilities of some languages that lingua knows.

    Args:
        codes: of two languages or more, by ISO 639-3 ("fra") or 639-1 ("fr").

    Attributes:
        languages: the codes as they were given, the columns of what it returns.

    Raises:
        MrlError: lingua is not installed, or does not know a language.
    """

    def __init__(self, codes: Sequence[str]):
        require("lingua", by="language identification by lingua", extra="curate")
        from lingua import LanguageDetectorBuilder

        self.languages = tuple(codes)
        known = _languages()
        self._order = [known[code] for code in codes]
        self._detector = LanguageDetectorBuilder.from_languages(*self._order).build()

    def probabilities(self, texts: Sequence[str]) -> Float64[HostArray, "N L"]:
        """Of each text the probability of each language; all 0 where it has no letter."""
        result = np.zeros((len(texts), len(self.languages)))
        found = self._detector.compute_language_confidence_values_in_parallel(list(texts))
        for row, values in zip(result, found, strict=True):
            of = {value.language: value.value for value in values}
            row[:] = [of[language] for language in self._order]
        return result


def check_codes(codes: Sequence[str]) -> None:
    """Raises an `MrlError` for one language alone, one named twice, or one lingua does not know."""
    require("lingua", by="language identification by lingua", extra="curate")
    known = _languages()
    for code in codes:
        if code not in known:
            names = [name for name in known if len(name) == len(code)] or list(known)
            some = "expected ISO 639-3 codes of languages that lingua knows, for example fra"
            hint = did_you_mean(code, names, otherwise=some)
            raise MrlError(f"lingua knows no language {code!r}", hint=hint)
    if len({known[code] for code in codes}) < max(len(codes), 2):
        problem = f"lingua is given {', '.join(codes)}, expected two or more different languages"
        raise MrlError(problem, hint="name those that the texts could be in")


def _languages() -> dict[str, Any]:
    """Code, of two letters and of three: lingua's language."""
    from lingua import Language

    values = [getattr(Language, name) for name in dir(Language) if name.isupper()]
    known = {}
    for language in values:
        known[language.iso_code_639_3.name.lower()] = language
        known[language.iso_code_639_1.name.lower()] = language
    return known
