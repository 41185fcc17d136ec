"""Noise on the tokens of queries: what it changes, what it never does, and that it is repeated."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.batches.token_noise import TokenNoise, draw_noise
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer

ALL = TokenNoise(normal=0.5, mix=0.4, drop=0.3, swap=0.3)
fractions = st.floats(0, 1)
noises = st.builds(
    TokenNoise, normal=st.floats(0, 2), mix=fractions, drop=st.floats(0, 0.99), swap=fractions
)


def rows(lengths, prompt=2, size=12):
    """Tokens that are each there once, their mask, and the places that may change."""
    places = np.arange(size)
    tokens = 100 + np.arange(len(lengths) * size, dtype=np.int32).reshape(-1, size)
    ends = np.asarray(lengths)[:, None]
    return tokens, places < ends, (places >= prompt) & (places < ends - 1)


@settings(max_examples=60, deadline=None)
@given(noises, st.lists(st.integers(2, 12), min_size=1, max_size=6), st.integers(0, 99))
def test_only_the_changeable_tokens_change(noise, lengths, seed):
    tokens, mask, changeable = rows(lengths)
    changed, kept, vectors = draw_noise(noise, tokens, mask, changeable, key=(seed,))
    np.testing.assert_array_equal(changed[~changeable], tokens[~changeable])
    np.testing.assert_array_equal(kept[~changeable], mask[~changeable])
    assert not (kept & ~mask).any()
    # What takes a token's place is one of the batch that may change as well.
    assert set(changed[changeable]) <= set(tokens[changeable])
    assert (changed.dtype, kept.dtype) == (np.int32, np.bool_)
    assert (vectors.normal is None) == (vectors.seeds is None) == (noise.normal == 0)
    assert (vectors.other is None) == (vectors.weight is None) == (noise.mix == 0)
    if vectors.normal is not None:
        np.testing.assert_array_equal(vectors.normal, np.float32(noise.normal) * changeable)
    if vectors.weight is not None:
        assert not vectors.weight[~changeable].any()
        assert ((vectors.weight >= 0) & (vectors.weight <= 1)).all()
        assert set(vectors.other[changeable]) <= set(tokens[changeable])


def test_fractions_are_those_of_tokens():
    tokens, mask, changeable = rows([200] * 50, size=200)
    noise = TokenNoise(mix=0.25, drop=0.1, swap=0.4)
    changed, kept, vectors = draw_noise(noise, tokens, mask, changeable, key=(0, 1))
    of_changeable = {
        "mix": (vectors.weight > 0)[changeable].mean(),
        "drop": (~kept)[changeable].mean(),
        "swap": (changed != tokens)[changeable].mean(),
    }
    for name, fraction in of_changeable.items():
        assert fraction == pytest.approx(getattr(noise, name), abs=0.02), name
    weights = vectors.weight[vectors.weight > 0]
    assert np.quantile(weights, (0.1, 0.5, 0.9)) == pytest.approx((0.1, 0.5, 0.9), abs=0.03)
    # No token is its own other, and the two kinds of others are not the same.
    assert (vectors.other != tokens)[changeable].all()
    swapped = changed != tokens
    assert (vectors.other != changed)[swapped].mean() > 0.9
    assert len(set(vectors.other[changeable])) > 0.5 * changeable.sum()


@pytest.mark.parametrize("name", ["mix", "drop", "swap", "normal"])
def test_one_noise_does_not_change_what_another_draws(name):
    arrays = rows([12, 9, 7, 12])
    alone = draw_noise(TokenNoise(**{name: getattr(ALL, name)}), *arrays, key=(3,))
    both = draw_noise(ALL, *arrays, key=(3,))
    other = draw_noise(ALL, *arrays, key=(4,))

    def part(drawn):
        tokens, mask, vectors = drawn
        return {
            "swap": (tokens,),
            "drop": (mask,),
            "mix": (vectors.other, vectors.weight),
            "normal": (vectors.seeds,),
        }[name]

    for ours, theirs, elsewhere in zip(part(alone), part(both), part(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, elsewhere)


def test_a_batch_with_one_token_has_no_other():
    tokens, mask, changeable = rows([4])
    changed, _, vectors = draw_noise(
        TokenNoise(swap=1.0, mix=1.0), tokens, mask, changeable, key=(0,)
    )
    np.testing.assert_array_equal(changed, tokens)
    np.testing.assert_array_equal(vectors.other, tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normal": -0.1}, "noise.normal is -0.1, expected 0 or more"),
        ({"normal": float("nan")}, "noise.normal is nan"),
        ({"mix": 1.5}, "noise.mix is 1.5, expected 0 to 1"),
        ({"swap": -1.0}, "noise.swap is -1.0, expected 0 to 1"),
        ({"drop": 1.0}, "noise.drop is 1.0, expected 0 or more and less than 1"),
        ({"drop": float("nan")}, "noise.drop is nan"),
    ],
)
def test_noise_that_is_refused(fields, message):
    with pytest.raises(MrlError, match=message):
        TokenNoise(**fields)


# In batches.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    for name, text in new_tokenizer(["abcdefgh \nquery:"], units="characters").items():
        (folder / name).write_text(text)
    return TextTokenizer(folder, max_tokens=40)


def source(tokenizer, noise, **options):
    pairs = [
        TextPair(query="abcd"[i % 4] * (2 + i % 5) + "ab", document="c" * (1 + i % 7), task="find")
        for i in range(24)
    ]
    config = TextBatchConfig(batch_size=8, max_tokens=40, prompts={"find": "head"})
    return TextPairSource(pairs, tokenizer, config, seed=5, noise=noise, **options)


def test_prompts_documents_and_identities_are_those_of_the_clean_batch(tokenizer):
    plain, noisy = source(tokenizer, TokenNoise()), source(tokenizer, ALL)
    prompt = len("head\nQuery:")
    for step in range(4):
        clean, changed = plain(step), noisy(step)
        assert clean.noise is None
        assert changed.noise is not None
        for name in ("document", "document_mask", "query_ids", "document_ids"):
            np.testing.assert_array_equal(getattr(changed, name), getattr(clean, name))
        np.testing.assert_array_equal(changed.query[:, :prompt], clean.query[:, :prompt])
        assert changed.query_mask[:, :prompt].all()
        assert not changed.noise.normal[:, :prompt].any()
        ends = clean.query_mask.sum(axis=1) - 1
        row = np.arange(8)
        assert (changed.query[row, ends] == tokenizer.end_id).all()
        assert changed.query_mask[row, ends].all()
        assert not changed.noise.normal[row, ends].any()
        assert (changed.noise.normal[row, ends - 1] == 0.5).all()
        assert (changed.noise.normal[row, prompt] == 0.5).all()
        assert (changed.query != clean.query).any()
        assert (changed.query_mask != clean.query_mask).any()


def test_noise_is_a_function_of_seed_and_step_on_any_number_of_hosts(tokenizer):
    ours, again = source(tokenizer, ALL), source(tokenizer, ALL)
    late = next(again.from_step(7))
    jax.tree.map(np.testing.assert_array_equal, ours(7), late)
    drawn: list[Any] = [ours(step).noise for step in range(6)]
    seeds = {tuple(noise.seeds.tolist()) for noise in drawn}
    assert len(seeds) == 6
    parts = [source(tokenizer, ALL, shard=(host, 2))(7) for host in range(2)]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, ours(7), joined)


def test_the_tokens_of_a_prompt_are_counted_in_texts_that_merge(tmp_path):
    files = new_tokenizer(["query: banana banana", "abab"] * 3, units="pieces", max_pieces=300)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = TextTokenizer(tmp_path)
    texts = ["query:ñanana", "query:" + "banana" * 3, "banana"]
    counts = made.tokens_before(texts, [6, 6, 0])
    assert counts[2] == 0
    for text, count in zip(texts[:2], counts[:2], strict=True):
        ids = made.encode([text])[0][:-1]
        tokens, _ = made.spell(ids)
        assert "".join(tokens[:count]).strip("Ġ") == "query:", tokens
