"""Small text checkpoints as sentence-transformers saves them, with each way of embedding."""

import json
import warnings
from pathlib import Path
from typing import Any

import published
import pytest

END = "<|endoftext|>"
OTHER_END = "<|im_end|>"
WORDS = ("fan", "lañuy", "jaaye", "dugub", "où", "vend", "on", "le", "mil", "a", "?", ",", ":")
TEXTS = ("Fan lañuy jaaye dugub?", "où vend-on le mil", "a", "a a a a : le mil")


def write_tokenizer(folder: Path, *, suffix: str | None = END, prefix: str | None = None) -> None:
    """A tokenizer of words that puts `prefix` and `suffix` around every text."""
    tokenizers = pytest.importorskip("tokenizers")
    names = [END, "<unk>", OTHER_END, *WORDS]
    ids = {word: number for number, word in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens([END, OTHER_END])
    around = [token for token in (prefix, suffix) if token]
    if around:
        parts = [prefix, "$A", suffix]
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=" ".join(part for part in parts if part),
            special_tokens=[(token, ids[token]) for token in dict.fromkeys(around)],
        )
    made.save(str(folder / "tokenizer.json"))
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))


def sentence_folder(
    folder: Path,
    *,
    pooling: Any = "lasttoken",
    dense: int | None = None,
    activation: str = "Identity",
    normalize: bool = True,
    suffix: str | None = END,
    prefix: str | None = None,
    prompts: dict[str, str] | None = None,
    default_prompt_name: str | None = None,
    **config: Any,
) -> Path:
    """A tiny Qwen3 with sentence-transformers' files, written by that library.

    Args:
        folder: to be made.
        pooling: of sentence-transformers' names.
        dense: width of a layer behind the pooling; without one where None.
        activation: of that layer, a name in torch.nn.
        normalize: a module that scales vectors to unit length.
        suffix, prefix: tokens that the tokenizer puts around a text.
        prompts, default_prompt_name: of the model.
        config: changes of config.json.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models

    bare = folder.with_name(f"{folder.name}-bare")
    published.save(published.torch_qwen3(num_hidden_layers=2, **config), bare)
    write_tokenizer(bare, suffix=suffix, prefix=prefix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules: list[Any] = [models.Transformer(str(bare)), models.Pooling(32, pooling)]
        if dense:
            function = getattr(torch.nn, activation)()
            torch.manual_seed(0)
            modules.append(models.Dense(32, dense, activation_function=function))
        modules += [models.Normalize()] if normalize else []
        options = {"prompts": prompts, "default_prompt_name": default_prompt_name}
        SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    return folder
