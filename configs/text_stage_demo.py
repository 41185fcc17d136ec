"""The text stage at demo size: a new tower of characters learns the demo's phrases.

Command:   make demo   (once, for demo/world)
           mrl-jax train --config text_stage_demo
Hardware:  one CPU core.
Duration:  two and a half minutes.
Expected:  nDCG@10 on the validation sentences, written, of 0.97, 0.97, 0.96 and 0.96 at 96, 48,
           24 and 12 coordinates (chance is 0.03).
"""

from mrl_jax.data.batches.text import TextBatchConfig
from mrl_jax.losses.config import LossConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.text_tower.config import (
    NewTowerConfig,
    TextDataConfig,
    TextModelConfig,
    TextStageExperiment,
)


def get_config() -> TextStageExperiment:
    return TextStageExperiment(
        name="text_stage_demo",
        model=TextModelConfig(new=NewTowerConfig(units="characters"), dtype="float32", remat=False),
        data=TextDataConfig(
            train="demo/world/text_pairs.jsonl",
            validation="demo/world/validation",
            batch=TextBatchConfig(batch_size=64, max_tokens=96, prompts={"translation": ""}),
        ),
        loss=LossConfig(dims=(96, 48, 24, 12), symmetric=True),
        optim=OptimConfig(
            learning_rate=2e-3,
            schedule="cosine",
            warmup_fraction=0.1,
            weight_decay=0.01,
            b2=0.98,
            accumulation_steps=2,
        ),
        train=LoopConfig(steps=600, validate_every=200, checkpoint_every=200),
    )
