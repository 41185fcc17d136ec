"""A small HuBERT, and the config of a small CTC run."""

import dataclasses
from pathlib import Path

import tiny_fusion
import tiny_run

TINY = dataclasses.replace(
    tiny_fusion.SPEECH,
    num_layers=1,
    mlp_width=32,
    conv_kernels=(20, 3),
    conv_strides=(10, 2),
    conv_bias=True,
    feature_norm="layer",
    pre_norm=True,
    sample_rate=8000,
)


def make_config(folder: Path, speech: Path, manifest: Path) -> Path:
    return tiny_run.write_config(
        folder / "tiny_ctc.py",
        f"""CtcExperiment(
        name="tiny_ctc",
        model=CtcModelConfig(speech_tower={str(speech)!r}, remat=False),
        data=CtcDataConfig(
            train={str(manifest)!r}, transcripts="text",
            batch=CtcBatchConfig(batch_size=8, num_buckets=1),
        ),
        optim=OptimConfig(learning_rate=3e-3),
        train=LoopConfig(steps=6, checkpoint_every=3, tensorboard=False),
    )""",
    )
