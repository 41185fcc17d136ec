"""Small towers through the real path: make, convert, verify, export, load, embed.

No network and no published weights are needed: the checkpoints are of the published
architectures, tiny, and random. Runs in about a minute.
"""

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

import mrl_jax
from mrl_jax.errors import MrlError, run_command

QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
}
HUBERT = {
    "model_type": "hubert",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [64] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 64,
    "num_conv_pos_embedding_groups": 8,
    "feat_extract_norm": "group",
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mrl_jax.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="default: ./demo")
    out = parser.parse_args(argv).out
    if out.exists() and not out.is_dir():
        raise MrlError("is a file, expected a folder", where=out, mend="choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for family, config in (("qwen3", QWEN3), ("hubert", HUBERT)):
        config_file = out / f"{family}.json"
        config_file.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        source, tower, exported = (
            out / f"{family}-{end}" for end in ("checkpoint", "tower", "exported")
        )
        _converters("random-init", family, config_file, source, "--overwrite")
        _converters(family, source, tower, "--overwrite")
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
            _converters("verify", tower, source)
        else:
            print("  (PyTorch and transformers are not installed: verify is left out)")
        _converters("export", tower, exported, "--overwrite")
    _embed_texts(out / "qwen3-tower")
    _pad_clips(out / "hubert-tower")
    return 0


def _converters(*arguments: object) -> None:
    words = ["-m", "converters", *map(str, arguments)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, *words], check=False)
    if done.returncode:
        raise MrlError(f"the command above ended with status {done.returncode}")


def _embed_texts(folder: Path) -> None:
    """Two texts, one right- and one left-padded; every prefix of the vector serves."""
    print("\nTexts, embedded by the Qwen3 tower")
    tower = mrl_jax.load_qwen3(folder)
    tokens = np.array([[5, 6, 7, 8, 0, 0], [0, 0, 5, 6, 7, 8]], np.int32)
    mask = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
    for dim in (64, 32, 16):
        right, left = np.asarray(tower.embed(tokens, mask, dim=dim))
        print(
            f"  dim {dim:>3}: padded right · padded left = {right @ left:.7f}, "
            f"length {np.linalg.norm(right):.6f}"
        )


def _pad_clips(folder: Path) -> None:
    """One second of a tone, alone and padded to three: how far its states move."""
    print("\nOne second of sound, alone and padded to three seconds, through the HuBERT tower")
    time = np.arange(16_000, dtype=np.float32) / 16_000
    clip = np.sin(2 * np.pi * (200 + 300 * time) * time).astype(np.float32)
    for padding in ("masked", "reference"):
        tower = mrl_jax.load_hubert(folder, padding=padding)
        alone = tower(*mrl_jax.pad_clips([clip], tower.config))
        padded = tower(*mrl_jax.pad_clips([clip], tower.config, size=48_000))
        frames = alone.layer_states.shape[2]
        a, b = np.asarray(alone.layer_states), np.asarray(padded.layer_states)[:, :, :frames]
        change = float(np.linalg.norm(a - b) / np.linalg.norm(a))
        print(f"  padding={padding!r:<12} its hidden states change by {change:.1e}")


if __name__ == "__main__":
    sys.exit(run_command(lambda argv: main(list(argv))))
