"""The demo's cascade: its recogniser before its text tower, which reads Wolof itself.

Command:   make demo && mrl-jax cascade --config demo_cascade --out demo/cascade
           mrl-jax eval compare --models "late fusion=demo/model" cascade=demo/cascade \\
               --data demo/world/test --out demo/cascade_report
Hardware:  two CPU cores.
Duration:  a second to write it, forty to compare it with two trained systems.
Expected:  nDCG@10 of 0.95 at full width, 0.99 from the true transcripts (transcripts=transcript);
           the recogniser's WER on unseen voices is 17 %.
"""

from mrl_jax.inference.cascade_config import CascadeConfig


def get_config() -> CascadeConfig:
    return CascadeConfig(
        name="demo_cascade",
        text_tower="demo/towers/text",
        recogniser="demo/towers/speech",
        dims=(96, 48, 24, 12),
        prompts={"translation": ""},
        max_text_tokens=64,
        dtype="float32",
    )
