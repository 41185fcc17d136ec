"""The paper's speech run: Qwen3-Embedding-0.6B and HuBERT-base, a head of 11.5 M parameters.

Command:   mrl-jax convert qwen3 Qwen/Qwen3-Embedding-0.6B towers/text
           mrl-jax convert hubert YOUR-HUBERT-FOLDER-OR-HUB-ID towers/speech
           (pip install '.[bin]' where the weights are a .bin file only)
           mrl-jax train --config late_fusion data.train=YOUR-MANIFEST.jsonl
Hardware:  any accelerators, which share the 128 pairs of a step. Where that is too much memory,
           run them in parts of 16 with the same gradient (on one device
           optim.accumulation_steps=8, on n devices 8 / n), or take fewer: data.batch.batch_size=16.
Duration:  one epoch, which suits large data; not yet measured at this size. For a few thousand
           pairs set train.epochs=7 or so.
Expected:  not yet measured here; the paper's own set is not public.
"""

from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.training.contrastive.config import DataConfig, ExperimentConfig, ModelConfig
from mrl_jax.training.loop import LoopConfig


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        name="late_fusion",
        model=ModelConfig(speech_tower="towers/speech", text_tower="towers/text"),
        data=DataConfig(
            train="data/train.jsonl",
            batch=BatchConfig(
                batch_size=128,
                prompts={
                    "translation": "Given a spoken sentence, retrieve its translation",
                    "transcription": "Given a spoken sentence, retrieve its transcription",
                    "retrieval": "Given a spoken question, retrieve the text that answers it",
                },
            ),
        ),
        train=LoopConfig(epochs=1.0, checkpoint_every=500),
    )
