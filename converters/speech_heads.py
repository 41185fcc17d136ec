"""Tensors of speech checkpoints that stand behind or beside the encoder, whatever its family.

No encoder computes with them: they are kept, so that export gives them back. Sources: the
classes of transformers by the names in `UNUSED_HEADS`, and ContentVec (arXiv 2204.09224).
"""

from .rules import UNUSED, Rule


def _unused(*names: str, parts: tuple[str, ...] = ("weight", "bias")) -> tuple[Rule, ...]:
    keys = (f"{name}.{part}" if part else name for name in names for part in parts)
    return tuple(Rule(key, f"{UNUSED}.{key}", prefixed=False) for key in keys)


UNUSED_HEADS = (
    # ForPreTraining: what the codebook and the contrast are computed with.
    *_unused("quantizer.weight_proj", "project_q", "project_hid"),
    *_unused("quantizer.codevectors", parts=("",)),
    # UniSpeechSatForPreTraining.
    *_unused("speaker_proj", "layer_norm_for_extract"),
    *_unused("label_embeddings_concat", parts=("",)),
    # ForSequenceClassification, ForAudioFrameClassification, and heads of two layers.
    *_unused("projector", "classifier", "classifier.dense", "classifier.out_proj"),
    *_unused("layer_weights", parts=("",)),
    # ForXVector.
    *_unused("tdnn.{block}.kernel", "feature_extractor"),
    *_unused("objective", parts=("weight",)),
    # ContentVec, and HuBERT's own pre-training.
    *_unused("final_proj"),
    *_unused("label_embs_concat", parts=("",)),
)
