"""Small towers of the published architectures, for two cores.

They are trained by the demo's own `train_ctc` and `train_text`: `training.ctc` and
`training.text_tower` have no repeated tokens.
"""

import tempfile
from collections.abc import Mapping, Sequence

from mrl_jax.checkpoints.new_towers import write_files
from mrl_jax.core.paths import user_path
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer, tokenizer_size
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.qwen3 import Qwen3Config


def speech_config(*, width: int = 128, num_layers: int = 3) -> HubertConfig:
    """A small HuBERT at 16 kHz with frames of 20 ms.

    Its three convolutions reach as far as the published seven, the first one as wide as
    the window of a spectrogram: on a few hours of speech, one wide convolution learns what
    several narrow ones need many hours for.
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
"""Id of the unknown token, which in `train_text` stands for silence."""


def make_tokenizer(
    texts: Sequence[str], *, words: bool = False, whole: Sequence[str] = ()
) -> dict[str, str]:
    """A tokenizer of the characters, or words, of `texts`; its end token has id 0.

    Args:
        texts: those that it must have tokens for.
        words: whether words are tokens, instead of characters.
        whole: words that are one token each in either case, in lower case.
    """
    return new_tokenizer(texts, units="words" if words else "characters", whole=whole)


def open_tokenizer(files: Mapping[str, str]) -> tuple[TextTokenizer, int]:
    """The tokenizer of these files, and the size of its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(user_path(folder), files)
        tokenizer = TextTokenizer(folder)
    return tokenizer, tokenizer_size(files)
