"""A tiny NLLB of random weights with a tokenizer of the tones' words, converted on the spot."""

from pathlib import Path

import pytest

CODES = ("eng_Latn", "fra_Latn", "wol_Latn")


def make_nllb(folder: Path, *, legacy: bool = False):
    """(model, tokenizer, CTranslate2's folder) of NLLB's architecture."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    converters = pytest.importorskip("ctranslate2.converters")

    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefgiou,"]
    merges = []
    for word in ("ba", "ce", "di", "fo", "gu"):
        merges += [("▁", word[0]), (f"▁{word[0]}", word[1])]
        tokens += [f"▁{word[0]}", f"▁{word}"]
    tokenizer = transformers.NllbTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        additional_special_tokens=list(CODES),
        src_lang="wol_Latn",
        tgt_lang="fra_Latn",
        legacy_behaviour=legacy,
    )
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        scale_embedding=True,
    )
    torch.manual_seed(0)
    model = transformers.M2M100ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape) * (0.5 if "shared" in name else 0.3))
        # Codes and ends are seldom the likeliest, so that words are written.
        rare = tokenizer.convert_tokens_to_ids([*tokens[:4], *CODES])
        model.model.shared.weight[rare] *= 0.2
    source = folder / "source"
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    files = ["tokenizer.json", "tokenizer_config.json"]
    converters.TransformersConverter(str(source), copy_files=files).convert(str(folder / "ct2"))
    return model, tokenizer, folder / "ct2"
