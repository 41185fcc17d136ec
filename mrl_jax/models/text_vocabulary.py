"""A recogniser's vocabulary of a text tower's own tokens: made, and transcripts written in it."""

import itertools
from collections.abc import Sequence

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.ctc import CtcVocabulary

BLANK = "<pad>"


@checked
def text_tower_vocabulary(transcripts: Sequence[str], tokenizer: TextTokenizer) -> CtcVocabulary:
    """The tokens of a text tower that occur in `transcripts`, by their ids, after the blank.

    Raises:
        MrlError: a transcript that the tokenizer cannot spell; no transcript has a token; a
            decoder that `spelling.spell_tokens` does not know.
    """
    rows = tokenizer.encode_prompts(transcripts)
    _refuse_unknown(transcripts, rows, tokenizer)
    text_ids = sorted(set(itertools.chain.from_iterable(rows)))
    if not text_ids:
        raise MrlError("no transcript has a token", where=tokenizer.path)
    tokens, byte_level = tokenizer.spell(text_ids)
    vocabulary = CtcVocabulary(
        tokens=(BLANK, *tokens),
        word_delimiter=None,
        byte_level=byte_level,
        text_ids=(-1, *text_ids),
        tokenizer_digest=tokenizer.digest,
    )
    # Some tokenizers drop what they cannot spell, without an unknown token.
    for text, labels in zip(transcripts, _to_outputs(rows, vocabulary), strict=True):
        spelled, wanted = vocabulary.join(labels), tokenizer.normalize(text)
        if spelled.split() != wanted.split():
            lost = sorted(set(wanted) - set(spelled) - {" "})
            raise MrlError(
                f"has no tokens for {', '.join(map(repr, lost))}"
                if lost
                else f"its tokens spell {spelled!r}",
                where=f"{tokenizer.path}: transcript {text!r}",
                hint="correct the transcripts, or set model.vocabulary=characters",
            )
    return vocabulary


@checked
def token_labels(
    transcripts: Sequence[str], vocabulary: CtcVocabulary, tokenizer: TextTokenizer
) -> list[list[int]]:
    """Outputs of the recogniser for the tokenizer's own ids of each transcript.

    Raises:
        MrlError: tokens that the vocabulary does not have; another tokenizer.
    """
    check_tokenizer(vocabulary, tokenizer)
    rows = tokenizer.encode_prompts(transcripts)
    for text, row in zip(transcripts, rows, strict=True):
        if lacking := sorted(set(row) - set(vocabulary.text_ids)):
            names = ", ".join(map(repr, tokenizer.spell(lacking)[0]))
            raise MrlError(
                f"the recogniser has no {names}, which the text tower's tokens of it are",
                where=f"transcript {text!r}",
                hint="set model.vocabulary=text_tower: it makes a new output layer",
            )
    return _to_outputs(rows, vocabulary)


@checked
def check_tokenizer(vocabulary: CtcVocabulary, tokenizer: TextTokenizer) -> None:
    """Refuses a text tower whose tokens are not those of the vocabulary.

    A file that differs elsewhere, as in what it appends to a text, is none the worse.

    Raises:
        MrlError: the vocabulary is not one of a text tower, or of another one.
    """
    if not vocabulary.text_ids:
        raise MrlError(
            "the recogniser's tokens are not those of a text tower",
            where=tokenizer.path,
            hint="train it with model.vocabulary=text_tower",
        )
    if vocabulary.tokenizer_digest == tokenizer.digest:
        return
    pairs = zip(vocabulary.text_ids, vocabulary.tokens, strict=True)
    ours = {number: token for number, token in pairs if number >= 0}
    theirs, byte_level = tokenizer.spell(list(ours))
    for (number, token), other in zip(ours.items(), theirs, strict=True):
        if token != other or byte_level != vocabulary.byte_level:
            raise MrlError(
                f"token {number} is {other!r}, and {token!r} in the text tower whose tokens "
                "the recogniser writes",
                where=tokenizer.path,
                hint="take the text tower that the recogniser was trained with",
            )


def _to_outputs(rows: Sequence[Sequence[int]], vocabulary: CtcVocabulary) -> list[list[int]]:
    output_of = {text_id: output for output, text_id in enumerate(vocabulary.text_ids)}
    return [[output_of[text_id] for text_id in row] for row in rows]


def _refuse_unknown(
    transcripts: Sequence[str], rows: Sequence[Sequence[int]], tokenizer: TextTokenizer
) -> None:
    if tokenizer.unknown_id is None:
        return
    concerned = [t for t, row in zip(transcripts, rows, strict=True) if tokenizer.unknown_id in row]
    if unknown := sorted({part for text in concerned for part in tokenizer.unknown_parts(text)}):
        raise MrlError(
            f"has no tokens for {', '.join(map(repr, unknown))}, which {len(concerned)} of "
            f"{len(transcripts)} transcripts have",
            where=tokenizer.path,
            hint="correct the transcripts, or set model.vocabulary=characters",
        )
