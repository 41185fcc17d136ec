"""A model at full size with random weights: its towers, and the checkpoints they came from."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import published_config

QUERY = "Which documents say how many tonnes of millet were sold there in the year 2019?"
END, WORDS = "<|endoftext|>", QUERY.replace("?", " ?").split()
SPECIAL = (END, "<|im_start|>", "<|im_end|>")
ORDINARY = 151_643
"""Tokens of Qwen3's vocabulary before the special ones."""


def make_text_checkpoint(folder: Path, dtype: str, learned: Sequence[tuple[str, str]] = ()) -> Path:
    """A folder that our converter and sentence-transformers read, as Qwen3-Embedding-0.6B's.

    `learned` are merges of its tokenizer, see `write_tokenizer`.
    """
    config = folder.parent / f"{folder.name}.json"
    config.write_text(json.dumps(published_config("qwen3-0.6b")))
    converters("random-init", "qwen3", config, folder, "--dtype", dtype)
    write_tokenizer(folder, learned)
    kinds = ("models.Transformer", "models.Pooling", "models.Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    pooling = {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True}
    pooling |= {"pooling_mode_mean_tokens": False, "include_prompt": True}
    _write_json(folder / "modules.json", modules)
    for path in paths[1:]:
        (folder / path).mkdir()
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    return folder


def write_tokenizer(folder: Path, learned: Sequence[tuple[str, str]] = ()) -> None:
    """A byte-level BPE as large as Qwen3's.

    Its words are those of `QUERY`, then what the merges `learned` give, and else random.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    vocabulary, merges = _merges(ORDINARY, learned)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    parts = Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(parts, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {"eos_token": END, "pad_token": END, "model_max_length": 32_768}
    _write_json(folder / "tokenizer_config.json", settings | {"padding_side": "left"})


def learned_merges(texts: Sequence[str], count: int) -> list[tuple[str, str]]:
    """The first merges that byte-level BPE learns from texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + count, initial_alphabet=letters)
    tokenizer.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _merges(
    size: int, learned: Sequence[tuple[str, str]]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of `size`: bytes, `WORDS` piece by piece, what is `learned`, random pairs."""
    from tokenizers import pre_tokenizers

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []

    def add(left: str, right: str) -> None:
        if len(vocabulary) < size and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            tokens.append(left + right)
            merges.append((left, right))

    for word in (*WORDS, *(f"Ġ{word}" for word in WORDS)):
        for before, letter in zip(itertools.accumulate(word), word[1:], strict=False):
            add(before, letter)
    for left, right in learned:
        add(left, right)
    rng = np.random.default_rng(0)
    while len(vocabulary) < size:
        left, right = rng.integers(len(tokens), size=2)
        if len(tokens[left]) + len(tokens[right]) <= 12:
            add(tokens[left], tokens[right])
    return vocabulary, merges


def make_speech_checkpoint(folder: Path, dtype: str) -> Path:
    """A HuBERT-base of random weights."""
    config = folder.parent / f"{folder.name}.json"
    config.write_text(json.dumps(published_config("hubert-base")))
    converters("random-init", "speech", config, folder, "--dtype", dtype)
    return folder


def make_models(folder: Path, learned: Sequence[tuple[str, str]] = ()) -> None:
    """The checkpoints, the converted towers, and a model over them in float32.

    `learned` are merges of the tokenizer, see `write_tokenizer`.
    """
    folder.mkdir(exist_ok=True)
    make_text_checkpoint(folder / "text-source", "bfloat16", learned)
    make_speech_checkpoint(folder / "speech-source", "float32")
    converters("qwen3", folder / "text-source", folder / "text")
    converters("speech", folder / "speech-source", folder / "speech")
    make_full_model(folder / "model", folder / "speech", folder / "text", dtype="float32")


def make_full_model(folder: Path, speech: Path, text: Path, *, dtype: str | None) -> Path:
    """A late-fusion model over two converted towers, whose head is random."""
    from flax import nnx

    from mrl_jax import LateFusion, LateFusionConfig
    from mrl_jax.checkpoints.models import save_model, tower_reference
    from mrl_jax.checkpoints.towers import load_hubert, load_qwen3
    from mrl_jax.nn import param_tree

    config = LateFusionConfig(end_token=ORDINARY)
    model = LateFusion(load_hubert(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(0))
    fields = {
        "kind": "late_fusion",
        "speech": tower_reference(speech, folder),
        "text": tower_reference(text, folder),
        "fusion": config,
        "padding": "masked",
        "dims": (1024, 512, 256),
        "prompts": {},
        "max_text_tokens": 512,
        "step": 0,
        "scores": {},
        "dtype": dtype,
    }
    save_model(folder, fields, param_tree.flatten(param_tree.split(model).trained))
    return folder


def converters(*arguments: Any) -> None:
    """Run a command of `converters` in a process of its own."""
    command = [sys.executable, "-m", "converters", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
