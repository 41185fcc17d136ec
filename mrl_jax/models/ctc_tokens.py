"""The text tower's tokens for each output of a recogniser's CTC layer."""

import re

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.text_vocabulary import check_tokenizer

SPECIAL = re.compile("<.+>")
"""Outputs that published recognisers have and never write, as <s> and <unk>: nothing is asked of
them."""


def tokens_of_outputs(
    vocabulary: CtcVocabulary,
    tokenizer: TextTokenizer,
    *,
    where: object = None,
    strict: bool = True,
) -> tuple[tuple[int, ...], ...]:
    """Token ids of the text tower for each output: its own token, or what spells its character.

    Args:
        vocabulary: of the recogniser.
        tokenizer: of the text tower.
        where: what an error names: the recogniser's folder.
        strict: refuse outputs that the text tower has no token for; they get its unknown one.

    Returns:
        one tuple an output, empty for the blank.

    Raises:
        MrlError: outputs that the text tower has no token for; tokens of another text tower.
    """
    if vocabulary.text_ids:
        check_tokenizer(vocabulary, tokenizer)
        return tuple(() if id_ < 0 else (id_,) for id_ in vocabulary.text_ids)
    texts = list(map(vocabulary.text_of, range(len(vocabulary.tokens))))
    if vocabulary.lower_case:
        texts = [text.lower() for text in texts]
    ids = [tuple(some) for some in tokenizer.encode_prompts(texts)]
    lacking = [
        part
        for number, (text, some) in enumerate(zip(texts, ids, strict=True))
        if number != vocabulary.blank and not SPECIAL.fullmatch(text)
        for part in (tokenizer.unknown_parts(text) if some else [text])
    ]
    if lacking and strict:
        raise MrlError(
            f"the text tower has no token for {', '.join(map(repr, dict.fromkeys(lacking)))}, "
            "which the recogniser writes",
            where=where,
            hint="train the text tower on texts with them, or the recogniser with "
            "model.vocabulary=text_tower",
        )
    ids[vocabulary.blank] = ()
    return tuple(ids)
