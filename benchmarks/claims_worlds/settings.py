"""What the towers and heads of all worlds have in common; a world changes a few fields.

The files of configs/ hand these to `mrl-jax train` and `mrl-jax cascade`.
"""

import dataclasses

from mrl_jax.data.batches.ctc import CtcBatchConfig, MaskConfig
from mrl_jax.data.batches.speech import BatchConfig
from mrl_jax.data.batches.text import TextBatchConfig
from mrl_jax.data.batches.token_noise import TokenNoise
from mrl_jax.data.build.builder import BuildOptions
from mrl_jax.demo.towers import speech_config
from mrl_jax.inference.cascade_config import CascadeConfig
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.training.contrastive.config import DataConfig, ExperimentConfig, ModelConfig
from mrl_jax.training.ctc.config import CtcDataConfig, CtcExperiment, CtcModelConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.text_tower.config import (
    NewTowerConfig,
    TextDataConfig,
    TextModelConfig,
    TextStageExperiment,
)

from .augmentation import STRETCH, vary_8khz, vary_16khz

DIMS = (96, 48, 24, 12)
MAX_TEXT_TOKENS = 96
MAX_SECONDS = 10.0
FROM_RANDOM = OptimConfig(
    learning_rate=2e-3,
    schedule="cosine",
    warmup_fraction=0.1,
    weight_decay=0.01,
    b2=0.98,
    average_decay=0.995,
)
"""How towers of random weights are trained."""


def speech_tower(sample_rate: int) -> HubertConfig:
    """A small HuBERT with 25 frames a second."""
    first = sample_rate // 200
    return dataclasses.replace(
        speech_config(width=192, num_layers=5),
        conv_channels=(96, 96, 128, 128),
        conv_kernels=(first * 16 // 5, 3, 3, 3),
        conv_strides=(first, 2, 2, 2),
        sample_rate=sample_rate,
    )


def text_stage() -> TextStageExperiment:
    return TextStageExperiment(
        name="claims_text",
        model=TextModelConfig(
            new=NewTowerConfig(units="pieces", max_pieces=1000, num_layers=2),
            dtype="float32",
            remat=False,
        ),
        data=TextDataConfig(batch=TextBatchConfig(batch_size=64, max_tokens=MAX_TEXT_TOKENS)),
        loss=LossConfig(dims=DIMS, symmetric=True),
        noise=TokenNoise(normal=0.3, mix=0.3, drop=0.1),
        optim=dataclasses.replace(FROM_RANDOM, average_decay=0.99),
        train=LoopConfig(steps=700, validate_every=350, checkpoint_every=350),
    )


def recogniser(sample_rate: int) -> CtcExperiment:
    return CtcExperiment(
        name="claims_ctc",
        model=CtcModelConfig(
            speech_tower="",
            sizes=speech_tower(sample_rate),
            filterbank=True,
            freeze_convolutions=False,
            remat=False,
        ),
        data=CtcDataConfig(
            batch=CtcBatchConfig(batch_size=48, num_buckets=5),
            build=BuildOptions(max_seconds=MAX_SECONDS, sample_rate=sample_rate),
        ),
        masks=MaskConfig(time_masks=2, time_seconds=0.15, frequency_masks=2, frequency_share=0.2),
        optim=FROM_RANDOM,
        train=LoopConfig(steps=2800, validate_every=400, checkpoint_every=400),
        augment=vary_16khz if sample_rate == 16_000 else vary_8khz,
        stretch=STRETCH,
    )


def head(sample_rate: int) -> ExperimentConfig:
    return ExperimentConfig(
        name="claims_head",
        model=ModelConfig(dtype="float32", remat=False),
        data=DataConfig(
            build=BuildOptions(max_seconds=MAX_SECONDS, sample_rate=sample_rate),
            batch=BatchConfig(batch_size=64, num_buckets=4, max_text_tokens=MAX_TEXT_TOKENS),
        ),
        loss=LossConfig(dims=DIMS),
        optim=OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_fraction=0.05),
        train=LoopConfig(steps=400, validate_every=100, checkpoint_every=100),
    )


def cascade() -> CascadeConfig:
    return CascadeConfig(
        name="claims_cascade", dims=DIMS, max_text_tokens=MAX_TEXT_TOKENS, dtype="float32"
    )
