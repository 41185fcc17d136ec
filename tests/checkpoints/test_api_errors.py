"""Errors of the functions that users call, without the type checker of the tests before them."""

import subprocess
import sys

CALLS = """
import jax.numpy as jnp
from flax import nnx
import mrl_jax
from mrl_jax.models.ctc import abstract_hubert_ctc
from mrl_jax.models.hubert import HubertConfig, abstract_hubert
from mrl_jax.models.qwen3 import Qwen3Config, abstract_qwen3

text = abstract_qwen3(Qwen3Config.embedding_0_6b())
speech = abstract_hubert(HubertConfig.base())
tokens = jnp.zeros((2, 6), jnp.int32)
mask = jnp.ones((2, 6), jnp.int32)
calls = {
    "fits": lambda: nnx.eval_shape(lambda module: module(tokens, mask), text),
    "mask": lambda: text(tokens, mask[:, :3]),
    "width": lambda: text(jnp.zeros((2, 6, 7)), mask),
    "short": lambda: speech(jnp.zeros((1, 399)), jnp.array([399])),
    "linen": lambda: mrl_jax.to_linen(abstract_hubert_ctc(HubertConfig.base(), 32)),
}
for name, call in calls.items():
    try:
        call()
        print(name, "passed")
    except (TypeError, ValueError) as error:
        print(name, error)
"""


def test_misuse_is_explained_in_the_users_terms():
    done = subprocess.run([sys.executable, "-c", CALLS], check=True, capture_output=True, text=True)
    message = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert message == {
        "fits": "passed",
        "mask": "Qwen3Encoder.__call__: mask is int32 of shape (2, 3), a JAX array, expected "
        'Bool["B L"] or Bool["B L"] of numpy or Int["B L"] or Int["B L"] of numpy',
        "width": "the vectors are 7 wide, expected 1024",
        "short": "the batch is 399 samples long, expected at least 400: one frame",
        "linen": "to_linen: tower is a HubertCtc, expected a Qwen3Encoder or a SpeechTower",
    }
