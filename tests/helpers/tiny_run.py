"""A tiny world of tones, towers of random weights, and configs that train on them.

Each "word" is a tone of its own pitch; a clip is two of them, its document their names.
Random towers tell tones apart well enough for a head to learn on.
"""

import contextlib
import dataclasses
import io
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

import jax
import numpy as np
import soundfile
from flax import nnx

import mrl_jax
from mrl_jax.checkpoints.mapped_arrays import read_mapped
from mrl_jax.checkpoints.models import save_model, tower_reference
from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.checkpoints.towers import load_hubert, load_qwen3
from mrl_jax.core.cli import run_command
from mrl_jax.core.config import load_config, override
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.demo.towers import make_tokenizer, speech_config, text_config
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.init import initial_recogniser, initial_tower
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree
from mrl_jax.training import command, loop
from mrl_jax.training.config import RunConfig
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train
from mrl_jax.training.devices import Devices
from mrl_jax.training.metrics_log import read_metrics

Config = TypeVar("Config", bound=RunConfig)
WORDS = ("ba", "ce", "di", "fo", "gu")
RATE = 16_000
PROMPTS = MappingProxyType({"": "", "find": "ba ce"})


def clip_of(words: tuple[int, ...], seed: int) -> np.ndarray:
    """Tones, one after the other, with a little noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for word in words:
        time = np.arange(int(RATE * rng.uniform(0.12, 0.2))) / RATE
        parts.append(0.3 * np.sin(2 * np.pi * (300 + 250 * word) * time))
    clip = np.concatenate(parts)
    return (clip + 0.01 * rng.standard_normal(len(clip))).astype(np.float32)


def text_of(words: tuple[int, ...]) -> str:
    return " ".join(WORDS[word] for word in words)


def make_towers(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Speech and text tower folders."""
    files = make_tokenizer([text_of((i,)) for i in range(len(WORDS))] + [" \nquery:"])
    size = len(json.loads(files["tokenizer.json"])["model"]["vocab"])
    text = initial_tower(text_config(size, width=32, num_layers=2), seed)
    config = dataclasses.replace(
        speech_config(width=32, num_layers=2), conv_channels=(16,) * 3, position_groups=4
    )
    recogniser = initial_recogniser(config, CtcVocabulary(("<pad>", "|", "a")), seed)
    save_text_tower(folder / "text", text, files)
    save_speech_tower(folder / "speech", recogniser)
    return folder / "speech", folder / "text"


def make_model(
    root: Path,
    *,
    dims: tuple[int, ...] = (32, 16, 8),
    prompts: Mapping[str, str] = PROMPTS,
    padding: str = "masked",
) -> Path:
    """A model folder whose head is random: root/model, beside root/towers."""
    speech, text = make_towers(root / "towers")
    config = LateFusionConfig(end_token=0)
    model = LateFusion(load_hubert(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(3))
    return save_tiny(root / "model", model, "late_fusion", speech, text, dims, prompts, padding)


def make_dual_encoder(
    root: Path, *, dims: tuple[int, ...] = (32, 16, 8), nested: bool = False, name: str = "dual"
) -> Path:
    """As `make_model`, a dual encoder: root/NAME, beside the towers that are there."""
    speech, text = root / "towers" / "speech", root / "towers" / "text"
    if not speech.is_dir():
        make_towers(root / "towers")
    config = DualEncoderConfig(dims=() if nested else dims, nested=nested)
    model = DualEncoder(load_hubert(speech), load_qwen3(text), config=config, rngs=nnx.Rngs(4))
    return save_tiny(root / name, model, "dual_encoder", speech, text, dims, PROMPTS)


def save_tiny(
    folder: Path,
    model: TwoTowers,
    kind: str,
    speech: Path,
    text: Path,
    dims: tuple[int, ...],
    prompts: Mapping[str, str],
    padding: str = "masked",
) -> Path:
    """Write a model as a run would have left it."""
    fields = {
        "kind": kind,
        "speech": tower_reference(speech, folder),
        "text": tower_reference(text, folder),
        "fusion": model.config,
        "padding": padding,
        "dims": dims,
        "prompts": dict(prompts),
        "max_text_tokens": 64,
        "step": 7,
        "scores": {},
    }
    trained = param_tree.flatten(param_tree.split(model).trained)
    save_model(folder, fields, trained)
    return folder


def make_manifest(folder: Path, *, examples: int = 48) -> Path:
    """A manifest of two-word clips, every pair of words several times."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(examples):
        words = (number % 5, (number // 5) % 5)
        soundfile.write(folder / f"{number}.wav", clip_of(words, number), RATE)
        lines.append({"id": f"e{number}", "audio": f"{number}.wav", "text": text_of(words)})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_retrieval_set(folder: Path, *, queries: int = 10) -> Path:
    """Queries in unseen takes; the corpus is all pairs of words."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(i, j) for i in range(5) for j in range(5)]
    spoken, qrels = [], {}
    for number in range(queries):
        words = pairs[(7 * number) % len(pairs)]
        path = folder / f"q{number}.wav"
        soundfile.write(path, clip_of(words, 1000 + number), RATE)
        spoken.append(Query(id=f"q{number}", audio=path))
        qrels[f"q{number}"] = {f"d{pairs.index(words)}": 1}
    corpus = [Document(id=f"d{i}", text=text_of(words)) for i, words in enumerate(pairs)]
    write_retrieval_set(folder, spoken, corpus, qrels)
    return folder


def make_config(
    folder: Path, speech: Path, text: Path, manifest: Path, validation: Path | None = None
) -> Path:
    """A config file for train.py."""
    return write_config(
        folder / "tiny.py",
        f"""ExperimentConfig(
        name="tiny",
        model=ModelConfig(
            speech_tower={str(speech)!r}, text_tower={str(text)!r}, dtype="float32", remat=False
        ),
        data=DataConfig(
            train={str(manifest)!r},
            validation={str(validation or "")!r},
            batch=BatchConfig(batch_size=8, num_buckets=2),
        ),
        loss=LossConfig(dims=(32, 16, 8)),
        optim=OptimConfig(learning_rate=3e-3),
        train=LoopConfig(
            steps=12, validate_every=6, checkpoint_every=3, tensorboard=False
        ),
    )""",
    )


def write_config(path: Path, expression: str) -> Path:
    """A config file that gives this expression, in which all kinds of runs can be written."""
    modules = ("contrastive.config", "ctc.config", "text_tower.config")
    imports = [f"from mrl_jax.training.{module} import *\n" for module in modules]
    text = f"{''.join(imports)}\n\ndef get_config():\n    return {expression}\n"
    path.write_text(text, encoding="utf-8")
    return path


@dataclasses.dataclass(frozen=True)
class World(Generic[Config]):
    """A config file, and what its runs read."""

    folder: Path
    kind: type[Config]
    config: Path
    speech: Path
    text: Path
    manifest: Path
    validation: Path

    def load(self, *changes: str) -> Config:
        return override(load_config(self.config, self.kind), changes)


def make_world(root: Path, *, examples: int) -> Path:
    """Towers, recordings and root/tiny.py, a config without validation; gives `root`."""
    speech, text = make_towers(root / "towers")
    make_config(root, speech, text, make_manifest(root / "data", examples=examples))
    return root


def four_steps(root: Path, name: str, *changes: str) -> tuple[list[float], list[str]]:
    """Losses of four steps in a world, on one device, and the lines of the log."""
    lines: list[str] = []
    changes = ("train.steps=4", "train.validate_every=0", *changes)
    config = override(load_config(root / "tiny.py", ExperimentConfig), changes)
    train(config, root / name, devices=Devices("pmap", jax.devices()[:1]), log=lines.append)
    return losses(root / name), lines


def losses(workdir: Path) -> list[float]:
    """Losses of all steps from the first on."""
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@contextlib.contextmanager
def sigterm_after(step: int) -> Iterator[None]:
    """Runs in the block are stopped by SIGTERM when the metrics of `step` are written."""

    class Stopping(loop.MetricsLog):
        def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
            super().write(kind, step, values)
            if step >= last:
                signal.raise_signal(signal.SIGTERM)

    last, original = step, loop.MetricsLog
    loop.MetricsLog = Stopping
    try:
        yield
    finally:
        loop.MetricsLog = original


def assert_refused(config: Path, workdir: Path, changes: Sequence[str], message: str) -> str:
    """`train.py` ends with status 2 and one line that holds `message`."""
    words = ["--config", str(config), "--workdir", str(workdir), *changes]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert run_command(command.main, words) == 2
    lines = errors.getvalue().strip().splitlines()
    assert len([line for line in lines if line.startswith("error:")]) == 1
    assert message in lines[-1], lines[-1]
    return lines[-1]


def exported_head(workdir: Path) -> dict[str, np.ndarray]:
    """The exported arrays, as bytes on disk hold them."""
    info = mrl_jax.Embedder.load(workdir).info
    paths = [
        "head.frame_downsample.bias",
        "head.frame_downsample.kernel",
        "head.frame_projection.kernel",
    ]
    return read_mapped(workdir / info.head, paths)
