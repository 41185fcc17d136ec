"""LoRA in the text stage: what is trained, against PEFT, and what a run leaves."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from damage import damaged
from published import QWEN3

import mrl_jax
from converters.__main__ import main as convert_main
from converters.convert import convert
from converters.lora import read_adapter as read_peft
from converters.random_init import random_init
from mrl_jax.checkpoints.adapters import read_adapter
from mrl_jax.checkpoints.towers import read_checked_weights, read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.commands import main
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.lora import PROJECTIONS, LoraConfig, initial_factors
from mrl_jax.nn import param_tree
from mrl_jax.nn.int8 import Int8Weight
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state
from mrl_jax.training.text_tower.config import TextStageExperiment
from mrl_jax.training.text_tower.initial import InitialTower, trained_parts
from mrl_jax.training.text_tower.run import train_text
from mrl_jax.training.text_tower.step import (
    make_text_step,
    text_embedder,
    tower_rebuilder,
)

WORDS = ("ba", "ce", "di", "fo", "gu", "hy")
PAIRS = [(f"{a} {b}", f"{b.upper()}, {a}?") for a, b in itertools.product(WORDS[:4], WORDS)]
TEXTS = [text for pair in PAIRS for text in pair]
DIMS = (32, 16)
TARGETS = ("q_proj", "v_proj", "down_proj")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LORA = LoraConfig(rank=4, alpha=6.0, targets=TARGETS)
CHANGED = {
    "layers.attention.q_proj.kernel",
    "layers.attention.v_proj.kernel",
    "layers.mlp.down_proj.kernel",
}
FACTORS = {path.replace("kernel", part) for path in CHANGED for part in ("lora_a", "lora_b")}


@dataclasses.dataclass(frozen=True)
class World:
    """A published tower, ours made of it, and a config whose runs train factors for it."""

    root: Path
    source: Path
    tower: Path

    def load(self, *changes):
        lora = [f"train.text_lora.{name}={value}" for name, value in vars(LORA).items()]
        return override(load_config(self.root / "tiny.py", TextStageExperiment), [*lora, *changes])

    def train(self, workdir, *changes, devices=None, log=lambda line: None):
        devices = Devices("pmap", jax.devices()[:1]) if devices is None else devices
        return train_text(self.load(*changes), workdir, devices=devices, log=log)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    source, config = root / "source", {**QWEN3, "num_hidden_layers": 2, "rms_norm_eps": 1e-6}
    config |= {"model_type": "qwen3", "architectures": ["Qwen3Model"]}
    (root / "config.json").write_text(json.dumps(config))
    random_init("qwen3", root / "config.json", source)  # Without torch, which takes its time.
    for name, text in new_tokenizer(TEXTS, units="characters").items():
        (source / name).write_text(text, encoding="utf-8")
    convert(str(source), root / "tower", family="qwen3")
    report = root / "tower" / "report.json"
    fields = json.loads(report.read_text())
    report.write_text(json.dumps({**fields, "revision": COMMIT}))  # As of a source on the hub.
    rows = [{"query": query, "document": document} for query, document in PAIRS]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [Query(id=f"q{i}", text=query) for i, (query, _) in enumerate(PAIRS)]
    corpus = [Document(id=f"d{i}", text=document) for i, (_, document) in enumerate(PAIRS)]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(len(PAIRS))}
    write_retrieval_set(root / "validation", queries, corpus, qrels)
    tiny_run.write_config(
        root / "tiny.py",
        f"""TextStageExperiment(
        name="tiny",
        model=TextModelConfig(text_tower={str(root / "tower")!r}, dtype="float32"),
        data=TextDataConfig(
            train={str(root / "pairs.jsonl")!r},
            batch=TextBatchConfig(batch_size=8, max_tokens=32),
        ),
        loss=LossConfig(dims={DIMS}),
        optim=OptimConfig(learning_rate=1e-2, weight_decay=0.01),
        train=LoopConfig(
            steps=4,
            checkpoint_every=2,
            tensorboard=False,
        ),
    )""",
    )
    return World(root, source, root / "tower")


@pytest.fixture(scope="module")
def finished(world):
    lines = []
    return world.train(world.root / "run", log=lines.append), lines


@pytest.fixture(scope="module")
def exported(world, finished):
    """The run's factors as PEFT's folder."""
    out = world.root / "peft"
    words = ["convert", "export", str(world.root / "run" / "adapter"), str(out)]
    assert run_command(main, words) == 0
    return out


def encoder_of(tower):
    return read_checked_weights(tower, read_info(tower))["encoder"]


def test_exactly_the_factors_are_trained(world, finished):
    run, lines = finished
    assert run.finished
    info, factors = read_adapter(world.root / "run" / "adapter")
    assert set(factors) == FACTORS
    assert info.lora == LORA
    first = initial_factors(info.config, LORA, 0)
    assert all(np.abs(factors[path] - np.asarray(first[path])).max() > 1e-4 for path in FACTORS)
    before, after = encoder_of(world.tower), encoder_of(run.folder)
    assert set(before) == set(after)
    different = {path for path in before if not np.array_equal(before[path], after[path])}
    assert different == CHANGED
    assert {path: x.dtype for path, x in before.items()} == {p: x.dtype for p, x in after.items()}
    trained = sum(factor.size for factor in factors.values())
    whole = trained + sum(x.size for x in before.values())
    (line,) = [line for line in lines if "trained of" in line]
    assert f"{trained:,} trained of {whole:,} parameters" in line
    assert "LoRA of rank 4, alpha 6, on q_proj, v_proj, down_proj of every layer" in line
    # State and moments, and no more.
    state = world.root / "run" / "checkpoints" / "4" / "state"
    size = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    assert 3 * 4 * trained <= size < 4 * sum(x.size for x in before.values())


def random_factors(config, lora, seed=0):
    """Factors of which neither is zero."""
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(0, 0.2, leaf.shape).astype(np.float32)
        for path, leaf in initial_factors(config, lora, 0).items()
    }


@functools.cache
def pieces(tower, dtype=jnp.float32, int8=False, lora=LORA):
    """(rebuild, frozen, batch) of the step on all pairs."""
    frozen = param_tree.split(mrl_jax.load_qwen3(tower, dtype=dtype, int8=int8)).frozen
    config = read_info(tower).config
    pairs = [TextPair(query=query, document=document) for query, document in PAIRS]
    batching = TextBatchConfig(batch_size=len(PAIRS))
    source = TextPairSource(pairs, TextTokenizer(tower), batching, seed=0)
    return tower_rebuilder(config, dtype, remat=False, lora=lora), frozen, source(0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_begins_with_the_towers_own_vectors(world, dtype):
    rebuild, frozen, batch = pieces(world.tower, dtype)
    config = read_info(world.tower).config
    plain = tower_rebuilder(config, dtype, remat=False)
    inputs = jnp.asarray(batch.query), jnp.asarray(batch.query_mask)
    ours = jax.jit(text_embedder(rebuild, dtype))
    first = param_tree.nest(initial_factors(config, LORA, 0))
    expected = jax.jit(text_embedder(plain, dtype))({}, frozen, *inputs)
    np.testing.assert_array_equal(ours(first, frozen, *inputs), expected)
    other = param_tree.nest(random_factors(config, LORA))
    assert np.abs(ours(other, frozen, *inputs) - expected).max() > 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_outputs_and_gradients_are_those_of_peft(world, exported):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    base = transformers.AutoModel.from_pretrained(world.source, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, exported, is_trainable=True)
    rebuild, frozen, batch = pieces(world.tower)
    _, factors = read_adapter(world.root / "run" / "adapter")
    weights = {path: jnp.asarray(x) for path, x in factors.items()}
    ids, mask = (np.asarray(x) for x in (batch.query, batch.query_mask))
    with jax.ensure_compile_time_eval():
        state = rebuild(param_tree.nest(weights), frozen)(ids, mask).last_hidden
    output = theirs(
        input_ids=torch.from_numpy(ids.astype(np.int64)), attention_mask=torch.from_numpy(mask * 1)
    ).last_hidden_state
    ours = np.where(mask[:, :, None], state, 0.0)
    expected = np.where(mask[:, :, None], output.detach().numpy(), 0.0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    functional = np.random.default_rng(0).normal(size=ours.shape).astype(np.float32)
    functional *= mask[:, :, None]
    (output * torch.from_numpy(functional)).sum().backward()

    def value(trained):
        hidden = rebuild(trained, frozen)(ids, mask).last_hidden
        return jnp.sum(jnp.where(mask[:, :, None], hidden, 0.0) * functional)

    gradient = param_tree.flatten(jax.jit(jax.grad(value))(param_tree.nest(weights)))
    found = {name: x.grad.numpy() for name, x in theirs.named_parameters() if x.grad is not None}
    assert len(found) == 2 * len(FACTORS)  # Two layers.
    for path, stacked in gradient.items():
        *_, part, name, factor = path.split(".")
        place = {"attention": "self_attn", "mlp": "mlp"}[part]
        for layer, ours in enumerate(stacked):
            key = f"layers.{layer}.{place}.{name}.lora_{factor[-1].upper()}.default.weight"
            expected = found[f"base_model.model.{key}"].T
            np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


def test_the_peft_folder_merges_into_the_same_tower(world, finished, exported, tmp_path):
    run, _ = finished
    config = json.loads((exported / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(world.source)
    assert config["revision"] == COMMIT
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    assert len(read_peft(str(exported)).pairs) == 2 * len(TARGETS)
    words = ["qwen3", str(world.source), str(tmp_path / "again"), "--adapter", str(exported)]
    assert convert_main(words) == 0
    merged, again = encoder_of(run.folder), encoder_of(tmp_path / "again")
    before = encoder_of(world.tower)
    for path, array in merged.items():
        np.testing.assert_allclose(again[path], array, atol=1e-6, rtol=0)
        assert (path in CHANGED) == (np.abs(before[path] - array).max() > 1e-4)


@pytest.mark.slow
def test_the_merged_tower_embeds_as_the_factors_beside_it(world, finished):
    run, _ = finished
    rebuild, frozen, _ = pieces(world.tower)
    _, factors = read_adapter(world.root / "run" / "adapter")
    tokens = pad_tokens(TextTokenizer(world.tower).encode([query for query, _ in PAIRS]))
    beside = rebuild(param_tree.nest(factors), frozen).embed(*tokens)
    merged = mrl_jax.load_qwen3(run.folder).embed(*tokens)
    np.testing.assert_allclose(merged, beside, atol=1e-5)
    base = mrl_jax.load_qwen3(world.tower).embed(*tokens)
    assert np.abs(np.asarray(base) - np.asarray(merged)).max() > 1e-3


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not(world, finished, tmp_path):
    with tiny_run.sigterm_after(3):
        stopped = world.train(tmp_path / "run")
    assert not stopped.finished
    for change, message in (
        ("train.text_lora.alpha=8", "its alpha is 6.0, expected 8.0"),
        ("train.text_lora.rank=0", "another model"),
        ("train.text_lora.targets=[q_proj]", "another model: its trained leaves"),
        ("model.frozen_dtype=int8", "its frozen dtype is float32, expected int8"),
    ):
        with pytest.raises(MrlError, match=message):
            world.train(tmp_path / "run", change)
    lines = []
    again = world.train(tmp_path / "run", log=lines.append)
    assert again.finished
    assert f"resumed from step {stopped.summary.step}" in lines
    factors = [read_adapter(x / "adapter")[1] for x in (tmp_path / "run", world.root / "run")]
    for path in FACTORS:
        np.testing.assert_array_equal(factors[0][path], factors[1][path])


@pytest.mark.slow
def test_a_tower_in_eight_bits_trains_nearly_as_well(world, finished, tmp_path):
    validation = f"data.validation={world.root / 'validation'}"
    run = world.train(tmp_path / "run", "model.frozen_dtype=int8", validation)
    assert 0 < json.loads((run.folder / "report.json").read_text())["scores"]["ndcg@10"] <= 1
    losses, plain = (tiny_run.losses(x) for x in (tmp_path / "run", world.root / "run"))
    np.testing.assert_allclose(losses, plain, rtol=0.05)
    assert losses != plain
    frozen = pieces(world.tower, int8=True)[1]
    assert isinstance(frozen["layers.mlp.up_proj.kernel"], Int8Weight)
    # Merged into the weights of the folder, not into what eight bits make of them.
    before, after = encoder_of(world.tower), encoder_of(tmp_path / "run" / "tower")
    assert {p for p in before if not np.array_equal(before[p], after[p])} == CHANGED


@pytest.mark.slow
def test_half_precision_with_noise(world, tmp_path):
    changes = ["model.dtype=bfloat16", "noise.normal=0.5", "noise.mix=0.4", "train.steps=2"]
    run = world.train(tmp_path / "run", *changes)
    assert run.info is not None
    assert run.info.dtype == "bfloat16"
    _, factors = read_adapter(tmp_path / "run" / "adapter")
    assert {factor.dtype.name for factor in factors.values()} == {"float32"}
    assert all(np.abs(factors[path]).max() > 0 for path in FACTORS)


def compare_devices(tower):
    """Largest difference of metrics and new factors to one device's, by devices."""
    rebuild, frozen, batch = pieces(Path(tower))
    factors = param_tree.nest(random_factors(read_info(Path(tower)).config, LORA))
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, warmup_fraction=0.0), 10)
    loss = LossConfig(dims=DIMS, symmetric=True)

    def one_step(parallel, count):
        place = Devices(parallel, jax.devices()[:count])
        step = make_text_step(rebuild, optimizer, loss, axis_name=place.axis_name)
        state = place.replicate(init_state(factors, optimizer))
        held, rows = place.place_frozen(frozen), place.put_batch(batch)
        new, metrics = place.compile(step)(state, held, rows)
        return {**metrics, **param_tree.flatten(new.trained)}

    def difference(ours, theirs):
        return max(float(np.abs(np.asarray(ours[x]) - np.asarray(theirs[x])).max()) for x in theirs)

    first = one_step("pmap", 1)
    cases = ("pmap", 2), ("pmap", 4), ("mesh", 4)
    results = {f"{by} {count}": difference(one_step(by, count), first) for by, count in cases}
    return {**results, "no step": difference(first, param_tree.flatten(factors))}


@pytest.mark.slow
def test_one_two_and_four_devices_take_the_same_step(world):
    words = [sys.executable, __file__, str(world.tower)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert results.pop("no step") > 5e-4
    assert set(results) == {"pmap 2", "pmap 4", "mesh 4"}
    assert max(results.values()) < 1e-5, results


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_trained(world, tmp_path, capsys):
    words = ["train", "--config", str(world.root / "tiny.py"), "--workdir", str(tmp_path / "run")]
    assert run_command(main, [*words, "--dry-run", "train.text_lora.rank=2"]) == 0
    out = capsys.readouterr().out
    assert "LoRA of rank 2, alpha 16, on q_proj, k_proj, v_proj, o_proj, gate_proj" in out
    assert "a device" in out
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_fields_that_a_rank_of_0_leaves_unread_are_in_the_log(world):
    tower = InitialTower(world.tower, read_info(world.tower), TextTokenizer(world.tower), True)
    changes = ["train.text_lora.rank=0", f"train.text_lora.targets=[{','.join(PROJECTIONS)}]"]

    def details(alpha):
        config = world.load(*changes, f"train.text_lora.alpha={alpha}")
        return trained_parts(config, tower, Devices("pmap", jax.devices()[:1])).details

    assert "alpha and targets of train.text_lora are not read at a rank of 0" in details(32)
    assert details(LoraConfig().alpha) == ""


NAMES = ", ".join(PROJECTIONS)
RANK = "train.text_lora.rank=4"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            [RANK, "train.text_lora.targets=[q_proj,qkv_proj]"],
            ["train.text_lora.targets has 'qkv_proj'", NAMES],
        ),
        ([RANK, "train.text_lora.targets=[]"], ["train.text_lora.targets is empty", NAMES]),
        (
            [RANK, "train.text_lora.targets=[q_proj,q_proj]"],
            ["train.text_lora.targets has a name twice: q_proj, q_proj"],
        ),
        (["train.text_lora.rank=-1"], ["train.text_lora.rank", "-1", "expected 0 to 65,536"]),
        (["train.text_lora.rank=1.5"], ["train.text_lora.rank is '1.5'", "a whole number"]),
        (
            ["train.text_lora.rank=32"],
            ["tower: train.text_lora.rank is 32, expected less than 32", "of q_proj"],
        ),
        ([RANK, "train.text_lora.alpha=0"], ["train.text_lora.alpha", "expected above 0"]),
        ([RANK, "train.text_lora.alpha=inf"], ["alpha is inf, expected a finite number"]),
        ([RANK, "train.fsdp=2"], ["train.fsdp is 2, which shards frozen weights"]),
        (["model.frozen_dtype=int8"], ["model.frozen_dtype is 'int8', and the whole tower is"]),
        ([RANK, "model.frozen_dtype=int4"], ["model.frozen_dtype is 'int4', expected int8"]),
        pytest.param(
            [RANK, "optim.rates.head=2"],
            ["optim.rates has 'head', with which no trained leaf's"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_refused_is_one_line(world, changes, parts, tmp_path):
    line = tiny_run.assert_refused(world.root / "tiny.py", tmp_path / "run", changes, parts[0])
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run" / "tower").exists()
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_damaged_adapter_is_refused(world, finished, tmp_path):
    def refused(part):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            words = ["convert", "export", str(tmp_path / "adapter"), str(tmp_path / "out")]
            assert run_command(main, words) == 2
        (line,) = errors.getvalue().splitlines()
        assert part in line
        assert not (tmp_path / "out").exists()

    shutil.copytree(world.root / "run" / "adapter", tmp_path / "adapter")
    assert run_command(main, ["checksum", str(tmp_path / "adapter")]) == 0
    description = tmp_path / "adapter" / "adapter.json"
    text = description.read_text()
    description.write_text(text.replace('"alpha": 6', '"alpha": 7'))
    refused("is not the description that was written")
    description.write_text(text)
    largest = max((tmp_path / "adapter" / "weights").rglob("*"), key=lambda x: x.stat().st_size)
    largest.write_bytes(damaged(largest.read_bytes()))
    refused("is not the file that was written")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_disable_most_optimizations", True)
    print(json.dumps(compare_devices(sys.argv[1])))
