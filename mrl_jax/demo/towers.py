"""Small towers of the published architectures, and the folders they are kept in.

Their stages are the real ones (`training.text_stage`, `training.ctc_stage`); only the
sizes are small enough for two cores.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.array_types import DTypeLike
from mrl_jax.data.text import DEFAULT_END, TextTokenizer
from mrl_jax.errors import MrlError
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
from mrl_jax.speech_tower_files import save_speech_tower as save_speech_tower
from mrl_jax.speech_tower_files import tower_arrays, write_files
from mrl_jax.staging import staged_folder
from mrl_jax.tower_folder import TOWER_FILE, TowerInfo, save_tower


def speech_config(*, width: int = 128, num_layers: int = 3) -> HubertConfig:
    """A small HuBERT at 16 kHz with frames of 20 ms.

    Its three convolutions reach as far as the published seven, the first one as wide as
    the window of a spectrogram: a wide one learns from few hours what a row of narrow
    ones needs many for.
    """
    return HubertConfig(
        width=width,
        num_layers=num_layers,
        num_heads=4,
        mlp_width=2 * width,
        conv_channels=(96, 96, 96),
        conv_kernels=(256, 3, 3),
        conv_strides=(80, 2, 2),
        conv_bias=True,
        feature_norm="layer",
        pre_norm=True,
        position_kernel=16,
        position_groups=16,
    )


def text_config(vocab_size: int, *, width: int = 96, num_layers: int = 2) -> Qwen3Config:
    """A small Qwen3 over characters."""
    return Qwen3Config(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        head_width=32,
        mlp_width=2 * width,
        rope_theta=1e4,
        norm_epsilon=1e-6,
    )


GAP_TOKEN = 1
"""Id of what stands for anything unknown, and in the text stage for silence."""


def make_tokenizer(
    texts: Sequence[str], *, words: bool = False, whole: Sequence[str] = ()
) -> dict[str, str]:
    """A tokenizer of the characters, or words, of `texts`, as the files of a published one.

    Args:
        texts: what it must be able to read.
        words: whether words are tokens, instead of characters.
        whole: words that are one token each in either case, in lower case.

    Returns:
        tokenizer.json and tokenizer_config.json by name; the end token has id 0.
    """
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    except ImportError as error:
        raise MrlError(
            "making a tokenizer takes tokenizers, which is not installed",
            mend="install the extra: `pip install 'mrl_jax[text]'`",
        ) from error
    units = " ".join(texts).lower().split() if words else "".join(texts).lower()
    names = [DEFAULT_END, "<unk>", *sorted(set(units))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit()
        if words
        else pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    )
    tokenizer.add_special_tokens([DEFAULT_END])
    tokenizer.add_tokens([AddedToken(word, single_word=True) for word in whole])
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": DEFAULT_END}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(described, indent=1) + "\n",
    }


def open_tokenizer(files: Mapping[str, str]) -> tuple[TextTokenizer, int]:
    """The tokenizer of these files, and the size of its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), files)
        tokenizer = TextTokenizer(folder)
    described = json.loads(files["tokenizer.json"])
    names = {
        *described["model"]["vocab"],
        *(token["content"] for token in described["added_tokens"]),
    }
    return tokenizer, len(names)


def save_text_tower(
    folder: Path,
    tower: Qwen3Encoder,
    tokenizer: Mapping[str, str],
    *,
    dtype: DTypeLike = "float32",
) -> TowerInfo:
    """Write a trained text tower as a tower folder that loads, and exports."""
    c = tower.config
    published = {
        "architectures": ["Qwen3Model"],
        "model_type": "qwen3",
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.rope_theta,
        "tie_word_embeddings": True,
        "dtype": str(np.dtype(dtype)),
    }
    files = {"config.json": json.dumps(published, indent=1) + "\n", **tokenizer}
    weights = {"encoder": tower_arrays(tower, dtype)}
    naming = {"prefix": "", "spellings": [], "tied_output": False}
    with staged_folder(folder, marker=TOWER_FILE, overwrite=True) as staging:
        write_files(staging, files)
        return save_tower(staging, "qwen3", c, weights, naming=naming)
