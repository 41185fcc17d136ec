"""Real speech: strings of three spoken English digits find their French wording.

Command:   python -m mrl_jax.demo.spoken_digits [--leave-out all]
           (makes recordings and towers, then trains with this config, fold by fold)
Hardware:  two CPU cores.
Duration:  about twenty minutes a fold.
Expected:  nDCG@10 of 0.95 among 1,000 wordings for known speakers, 0.53 to 0.61 for speakers
           left out in turn (mean 0.58); chance is 0.0045.
"""

from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.build.builder import BuildOptions
from mrl_jax.losses.config import LossConfig
from mrl_jax.training.contrastive.config import DataConfig, ExperimentConfig, ModelConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig


def get_config() -> ExperimentConfig:
    return ExperimentConfig(
        name="spoken_digits",
        model=ModelConfig(
            speech_tower="runs/spoken_digits/known/speech",
            text_tower="runs/spoken_digits/text",
            dtype="float32",
            remat=False,
        ),
        data=DataConfig(
            train="runs/spoken_digits/known/data/train.jsonl",
            build=BuildOptions(max_seconds=4.0, sample_rate=8000),
            batch=BatchConfig(batch_size=64, num_buckets=3, max_text_tokens=48),
        ),
        loss=LossConfig(dims=(96, 48, 24, 12)),
        optim=OptimConfig(learning_rate=3e-3, schedule="cosine", warmup_fraction=0.05),
        train=LoopConfig(steps=1000, checkpoint_every=250),
    )
