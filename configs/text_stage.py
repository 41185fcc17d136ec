"""The paper's text stage: Qwen3-Embedding-0.6B, trained whole on Wolof-French text pairs.

Command:   mrl-jax convert qwen3 Qwen/Qwen3-Embedding-0.6B towers/text
           mrl-jax train --config text_stage data.train=YOUR-PAIRS.jsonl
           mrl-jax convert export runs/text_stage/tower OUT   (for sentence-transformers)
           mrl-jax train --config late_fusion model.text_tower=runs/text_stage/tower ...
Hardware:  one accelerator of 16 GB or more: 7 GB of float32 weights and moments, 2.4 GB of
           gradients, 1.2 GB of bfloat16 weights, and the activations of 8 pairs.
           optim.name=adafactor saves 4.8 GB; train.text_lora.rank=16 trains factors beside the
           tower, of which only the bfloat16 weights are left. On n devices set
           optim.accumulation_steps to 16 / n: the gradient stays that of all 128 pairs.
Duration:  two epochs; not yet measured at this size.
Expected:  not yet measured here; the paper's own pairs are not public.
"""

from mrl_jax.data.batches.text import TextBatchConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.text_tower.config import TextDataConfig, TextModelConfig, TextStageExperiment


def get_config() -> TextStageExperiment:
    return TextStageExperiment(
        name="text_stage",
        model=TextModelConfig(text_tower="towers/text"),
        data=TextDataConfig(
            train="data/text_pairs.jsonl",
            batch=TextBatchConfig(
                batch_size=128,  # 8 pairs at a time, 16 times, with exact gradients.
                max_tokens=2048,
                prompts={
                    "translation": "Given a sentence, retrieve its translation",
                    "transcription": "Given a sentence, retrieve its transcription",
                    "retrieval": "Given a question, retrieve the text that answers it",
                },
            ),
        ),
        optim=OptimConfig(
            learning_rate=2e-5, schedule="cosine", warmup_fraction=0.1, accumulation_steps=16
        ),
        train=LoopConfig(epochs=2.0, checkpoint_every=200),
    )
