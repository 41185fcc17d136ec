"""The published linear head in the demo world.

Command:   mrl-jax train --config demo_linear --workdir demo/linear   (after `make demo`)
Hardware:  two CPU cores. Duration: about three minutes.
Expected:  nDCG@10 of 0.89 at full width, chance 0.0076.
"""

from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.build.builder import BuildOptions
from mrl_jax.demo.make_towers import SPEEDS, vary
from mrl_jax.losses.config import LossConfig
from mrl_jax.training.contrastive.config import DataConfig, ExperimentConfig, ModelConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        name="demo_linear",
        model=ModelConfig(
            speech_tower="demo/towers/speech",
            text_tower="demo/towers/text",
            remat=False,
            dtype="float32",
            head_init="ctc",
        ),
        data=DataConfig(
            train="demo/world/train.jsonl",
            validation="demo/world/validation",
            build=BuildOptions(max_seconds=4.0),
            batch=BatchConfig(
                batch_size=64,
                num_buckets=3,
                max_text_tokens=64,
                prompts={"translation": ""},
            ),
        ),
        loss=LossConfig(dims=(96, 48, 24, 12)),
        optim=OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_fraction=0.05),
        train=LoopConfig(steps=400, validate_every=100, checkpoint_every=100),
        augment=vary,
        stretch=1 / SPEEDS[0],
    )
