"""A recogniser from a HuBERT tower: the first stage of the cascade.

It writes the characters of the transcripts, or the tokens of a text tower, which may then read its
posteriors as its own input. The second command begins at the recogniser that the first one made.

Command:   mrl-jax train --config ctc data.train=YOUR-MANIFEST.jsonl
           mrl-jax train --config ctc --workdir runs/ctc_tokens data.train=YOUR-MANIFEST.jsonl
               model.vocabulary=text_tower model.text_tower=towers/text
               model.speech_tower=runs/ctc/tower
Hardware:  one accelerator of 16 GB for HuBERT-base.
Duration:  not yet measured here.
Expected:  not yet measured here; the paper does not give the settings of its recogniser.
"""

from mrl_jax.data.batches.ctc import CtcBatchConfig
from mrl_jax.training.ctc.config import CtcDataConfig, CtcExperiment, CtcModelConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.optim import OptimConfig


def get_config() -> CtcExperiment:
    return CtcExperiment(
        name="ctc",
        model=CtcModelConfig(speech_tower="towers/speech", dtype="bfloat16"),
        data=CtcDataConfig(batch=CtcBatchConfig(batch_size=16)),
        optim=OptimConfig(learning_rate=1e-4, warmup_fraction=0.1),
        train=LoopConfig(epochs=10.0, checkpoint_every=500, validate_every=500),
    )
