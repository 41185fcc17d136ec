"""What a text tower's tokens are for the outputs of a recogniser."""

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.ctc_tokens import tokens_of_outputs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, contents in new_tokenizer(["ab cd"], units="characters").items():
        (folder / name).write_text(contents)
    return TextTokenizer(folder)


def test_characters_words_and_the_space_are_what_spells_them(tokenizer):
    vocabulary = CtcVocabulary(("|", "A", "<pad>", "ABC"), blank=2, lower_case=True)
    ids = tokenizer.encode_prompts([" ", "a", "abc"])
    assert [len(some) for some in ids] == [1, 1, 3]
    assert tokens_of_outputs(vocabulary, tokenizer) == (
        tuple(ids[0]),
        tuple(ids[1]),
        (),
        tuple(ids[2]),
    )


def test_what_cannot_be_spelled_is_named_once_and_special_outputs_are_not_asked_for(tokenizer):
    vocabulary = CtcVocabulary(("<pad>", "<unk>", "</s>", "a", "é", "béd", "ŋ"))
    with pytest.raises(MrlError, match="no token for 'é', 'ŋ', which the recogniser writes"):
        tokens_of_outputs(vocabulary, tokenizer)
    plain = CtcVocabulary(("<pad>", "<unk>", "</s>", "a"))
    outputs = tokens_of_outputs(plain, tokenizer)
    assert outputs[0] == ()
    assert outputs[3] == tuple(tokenizer.encode_prompts(["a"])[0])


def test_a_text_towers_own_tokens_are_themselves(tokenizer):
    tokens, _ = tokenizer.spell([3, 2])
    vocabulary = CtcVocabulary(
        ("<pad>", *tokens),
        word_delimiter=None,
        text_ids=(-1, 3, 2),
        tokenizer_digest=tokenizer.digest,
    )
    assert tokens_of_outputs(vocabulary, tokenizer) == ((), (3,), (2,))
