"""The demo's recogniser from random weights, by the same command as a real one.

Command:   make demo && mrl-jax train --config demo_ctc
Hardware:  two CPU cores.
Duration:  ten minutes.
Expected:  a word error rate of 43 % on the validation set. The tower of the demo was trained
           twice as long, on augmented clips (demo/make_towers.py): 17 %, as measured by
           mrl-jax eval transcribe --model demo/towers/speech --data demo/world/test --out OUT
"""

from mrl_jax.data.batches.ctc import CtcBatchConfig
from mrl_jax.data.build.builder import BuildOptions
from mrl_jax.demo.make_towers import SPEEDS, vary
from mrl_jax.demo.towers import speech_config
from mrl_jax.training.ctc.config import CtcDataConfig, CtcExperiment, CtcModelConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig


def get_config() -> CtcExperiment:
    return CtcExperiment(
        name="demo_ctc",
        model=CtcModelConfig(
            speech_tower="",
            sizes=speech_config(),
            filterbank=True,
            freeze_convolutions=False,
            remat=False,
        ),
        data=CtcDataConfig(
            train="demo/world/train.jsonl",
            validation="demo/world/validation",
            batch=CtcBatchConfig(batch_size=32, num_buckets=3),
            build=BuildOptions(max_seconds=4.0),
        ),
        optim=OptimConfig(
            learning_rate=1e-3, schedule="cosine", warmup_fraction=0.1, weight_decay=0.01, b2=0.98
        ),
        train=LoopConfig(steps=1500, validate_every=500, checkpoint_every=500),
        augment=vary,
        stretch=1 / SPEEDS[0],
    )
