"""Which language a text is in, learnt in a second from the user's own texts.

Characters are enough to tell languages apart (Cavnar and Trenkle 1994), and a language that no
published identifier knows takes a few hundred sentences: TF-IDF of hashed character 1-4-grams
before multinomial naive Bayes. Their lengths are normalised, so that the probabilities of a long
text are not all 0 or 1.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.extras import require
from mrl_jax.curation.shingles import shingles
from mrl_jax.data.text.normalize import plain_text

LONGEST_GRAM = 4
_BITS = 17
"""Of a hashed n-gram: 131,072 columns, more than a language uses."""
_SMOOTHING = 1e-3
"""Added to the count of each n-gram: one that a language never has speaks loudly against it."""
_CHARACTERS = 2000
"""Of a text that are read: more of them say nothing new."""


FOLDS = 4
"""Models, each trained without a quarter of the texts, which it alone judges."""


class LanguageIdentifier:
    """Probabilities of the languages that it was trained on, by models that never saw the text.

    A text under a wrong label would vouch for itself. So each text belongs to a fold, by its words
    alone, and is judged by a model trained on the other folds.

    Args:
        texts: of two languages or more.
        labels: the language of each.

    Attributes:
        languages: sorted, the columns of what it returns.
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str]):
        require("sklearn", by="language identification")
        self.languages: tuple[str, ...] = tuple(sorted(set(labels)))
        names, features, folds = np.asarray(labels), _counts(texts), folds_of(texts)
        # Where a fold holds all but one language there is nothing to leave out.
        chosen = [folds != fold for fold in range(FOLDS)]
        enough = [len(set(names[others])) > 1 for others in chosen]
        self._models = [
            _fitted(features[others], names[others]) if ok else _fitted(features, names)
            for others, ok in zip(chosen, enough, strict=True)
        ]

    def probabilities(
        self, texts: Sequence[str], folds: Int64[HostArray, " N"] | None = None
    ) -> Float64[HostArray, "N L"]:
        """Of each text the probability of each language, which sum to 1.

        Args:
            texts: any, those trained on among them.
            folds: `folds_of` the texts that these are parts of; by default of these themselves.
        """
        folds = folds_of(texts) if folds is None else folds
        features = _counts(texts)
        result = np.zeros((len(texts), len(self.languages)))
        for fold, (tfidf, bayes) in enumerate(self._models):
            rows = np.flatnonzero(folds == fold)
            if len(rows):
                columns = np.array([self.languages.index(one) for one in bayes.classes_])
                found = bayes.predict_proba(tfidf.transform(features[rows]))
                result[rows[:, None], columns] = found
        return result


def folds_of(texts: Sequence[str]) -> Int64[HostArray, " N"]:
    """The fold of each text, the same for texts that differ in case and punctuation alone."""
    return np.array([zlib.crc32(plain_text(text).encode()) % FOLDS for text in texts], np.int64)


def _fitted(features: Any, labels: HostArray) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.naive_bayes import MultinomialNB

    tfidf = TfidfTransformer(sublinear_tf=True).fit(features)
    # A language of which there are few texts is as likely as one of which there are many.
    bayes = MultinomialNB(alpha=_SMOOTHING, fit_prior=False)
    return tfidf, bayes.fit(tfidf.transform(features), labels)


def _counts(texts: Sequence[str]) -> Any:
    """A sparse matrix [texts, hashed n-grams]; texts in lower case, with a space at each end."""
    from scipy.sparse import csr_array

    padded = [f" {' '.join(text[:_CHARACTERS].lower().split())} " for text in texts]
    parts = [shingles(padded, size) for size in range(1, LONGEST_GRAM + 1)]
    columns = np.concatenate([values >> np.uint64(64 - _BITS) for values, _ in parts])
    rows = np.concatenate([owners for _, owners in parts])
    ones = np.ones(len(rows), np.float32)
    where = (rows.astype(np.int32), columns.astype(np.int32))
    return csr_array((ones, where), shape=(len(texts), 1 << _BITS))
