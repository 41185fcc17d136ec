"""The text stage as a whole: against sentence-transformers, and from pairs to a tower."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from published import save, torch_qwen3
from tiers import mostly_slow
from tiny_run import make_towers

import mrl_jax
from converters import qwen3
from converters.convert import convert
from converters.export import export
from converters.rules import published_names
from mrl_jax.checkpoints.new_towers import NEW_NAMING, appending_end, sentence_files
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.packing import PackedPairSource
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.batches.token_noise import TokenNoise
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.nn import param_tree
from mrl_jax.training.devices import Devices
from mrl_jax.training.grad_cache import cached_value_and_grad, rows_of
from mrl_jax.training.metrics_log import read_metrics
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state
from mrl_jax.training.text_tower.config import TextStageExperiment
from mrl_jax.training.text_tower.run import train_text
from mrl_jax.training.text_tower.step import (
    embedder,
    make_text_step,
    pair_loss,
    tower_rebuilder,
    working_copy,
)

DIMS = (32, 16, 8)
WORDS = ("ba", "ce", "di", "fo", "gu", "hy")
PAIRS = [(f"{a} {b}", f"{b.upper()}, {a}?") for a, b in itertools.product(WORDS[:4], WORDS)]
PROMPT = "find it"
TEXTS = [*(text for pair in PAIRS for text in pair), f"{PROMPT}\nQuery:"]
QUIET = TokenNoise()
NOISE = TokenNoise(normal=0.5, mix=0.4, drop=0.2, swap=0.2)
NOISE_CHANGES = [f"noise.{name}={value}" for name, value in vars(NOISE).items()]


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A random published tower with a tokenizer, as its folder and as ours."""

    source: Path
    tower: Path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    files = new_tokenizer(TEXTS, units="characters")
    source = save(torch_qwen3(num_hidden_layers=2), root / "source")
    for name, text in files.items():
        (source / name).write_text(text, encoding="utf-8")
    convert(str(source), root / "tower", family="qwen3")
    return Tiny(source, root / "tower")


def sentence_transformer(folder):
    """The folder as sentence-transformers loads it, without any help."""
    library = pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def pieces_of(tiny, *, dtype=jnp.float32, rows=24, remat=False, noise=QUIET):
    """(embed, loss, weights, batch) of the text step; it compiles faster without `remat`."""
    tower = mrl_jax.load_qwen3(tiny.tower, dtype=jnp.float32, trainable=True)
    pairs = [TextPair(query=query, document=document) for query, document in PAIRS[:rows]]
    source = TextPairSource(
        pairs, TextTokenizer(tiny.tower), TextBatchConfig(batch_size=rows), seed=0, noise=noise
    )
    embed = embedder(tower_rebuilder(tower.config, dtype, remat=remat))
    weights = working_copy(param_tree.split(tower).trained, dtype)
    return embed, pair_loss(LossConfig(dims=DIMS)), weights, source(0)


@functools.cache
def _gradient(tiny, parts, noise=QUIET):
    embed, loss, weights, batch = pieces_of(tiny, remat=parts > 1, noise=noise)
    result = jax.jit(cached_value_and_grad(embed, loss, parts=parts))(weights, batch)
    return jax.tree.map(np.asarray, result)


def errors(ours, theirs):
    return {
        name: float(np.linalg.norm(leaf - theirs[name]) / np.linalg.norm(theirs[name]))
        for name, leaf in ours.items()
    }


def test_loss_and_gradients_are_those_of_sentence_transformers(tiny, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import losses

    # The published folder, with the files that the text stage leaves.
    for name, text in sentence_files(read_info(tiny.tower).config, 64, {}).items():
        (tiny.source / name).parent.mkdir(exist_ok=True)
        (tiny.source / name).write_text(text)
    tokenizer = tiny.source / "tokenizer.json"
    tokenizer.write_bytes(appending_end(tokenizer.read_bytes(), 0, where=tokenizer))
    model = sentence_transformer(tiny.source)
    plain = losses.MultipleNegativesRankingLoss(model, scale=20.0)
    nested = losses.MatryoshkaLoss(model, plain, list(DIMS), matryoshka_weights=[1 / 3] * 3)
    texts = list(zip(*PAIRS, strict=True))
    features = [model.preprocess(list(side)) for side in texts]
    value = nested(features, torch.zeros(0))
    value.backward()
    theirs = {
        name: parameter.grad.numpy() for name, parameter in model[0].auto_model.named_parameters()
    }

    # Rows come in another order, which a mean over them does not see.
    (ours, _), gradient = _gradient(tiny, 8)
    assert float(ours) == pytest.approx(value.item(), rel=1e-5)
    flat = {f"encoder.{path}": leaf for path, leaf in param_tree.flatten(gradient).items()}
    names = published_names(qwen3.TABLE, {p: leaf.shape for p, leaf in flat.items()}, NEW_NAMING)
    named = {
        item.key: item.layout.inverse(
            flat[item.path] if item.layer is None else flat[item.path][item.layer]
        )
        for item in names
    }
    assert set(named) == set(theirs)
    differences = errors(named, theirs)
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.slow
def test_eight_parts_are_one_batch_with_noise_as_well(tiny):
    (value, _), whole = _gradient(tiny, 1, NOISE)
    (in_parts, _), gradient = _gradient(tiny, 8, NOISE)
    assert float(in_parts) == pytest.approx(value.item(), rel=1e-5)
    differences = errors(param_tree.flatten(gradient), param_tree.flatten(whole))
    assert max(differences.values()) < 1e-5, differences
    (quiet, _), _ = _gradient(tiny, 1)
    assert abs(quiet.item() - value.item()) > 0.01


def test_noise_changes_queries_and_never_documents(tiny):
    embed, _, weights, batch = pieces_of(tiny, noise=NOISE)
    *_, quiet = pieces_of(tiny)
    of_noise, of_quiet = jax.jit(embed)(weights, batch), jax.jit(embed)(weights, quiet)
    np.testing.assert_allclose(of_noise[1], of_quiet[1], atol=1e-6)
    assert np.abs(of_noise[0] - of_quiet[0]).max(axis=1).min() > 1e-3
    rough, _, halved, _ = pieces_of(tiny, dtype=jnp.bfloat16)
    in_bfloat16 = jax.jit(rough)(halved, batch)
    for ours, theirs in zip(in_bfloat16, of_noise, strict=True):
        assert np.sum(np.asarray(ours) * np.asarray(theirs), axis=1).min() > 0.99


def test_equal_ids_of_a_side_are_no_negatives(tiny):
    """By hand: candidates are of neither the row's query nor its document, but for its own."""
    embed, _, weights, _ = pieces_of(tiny)
    intents, answers = [0, 0, 1, 2, 2, 3, 4, 4], [0, 1, 2, 2, 3, 4, 4, 5]
    pairs = [
        TextPair(query=query, document=document, query_id=f"q{intent}", document_id=f"d{answer}")
        for (query, document), intent, answer in zip(PAIRS, intents, answers, strict=False)
    ]
    batching = TextBatchConfig(batch_size=8)
    batch = TextPairSource(pairs, TextTokenizer(tiny.tower), batching, seed=0)(0)
    config = LossConfig(dims=DIMS, temperature=0.1, symmetric=True)
    queries, documents = map(np.asarray, jax.jit(embed)(weights, batch))
    total = pair_loss(config)(weights, (jnp.asarray(queries), jnp.asarray(documents)), batch)[0]
    losses = []
    for dim in DIMS:
        cut = [side[:, :dim] for side in (queries, documents)]
        left, right = (side / np.linalg.norm(side, axis=1)[:, None] for side in cut)
        scores = np.exp(left @ right.T / 0.1)
        for i in range(8):
            others = [
                j
                for j in range(8)
                if batch.query_ids[i] != batch.query_ids[j]
                and batch.document_ids[i] != batch.document_ids[j]
            ]
            assert len(others) < 7
            for row in (scores[i], scores[:, i]):
                losses.append(-np.log(row[i] / (row[i] + row[others].sum())))
    assert float(total) == pytest.approx(np.mean(losses), rel=1e-5)
    plain = TextPairSource(
        [TextPair(query=pair.query, document=pair.document) for pair in pairs],
        TextTokenizer(tiny.tower),
        batching,
        seed=0,
    )(0)
    of_texts, _ = pair_loss(config)(weights, (jnp.asarray(queries), jnp.asarray(documents)), plain)
    assert float(of_texts) > float(total) + 0.01


@pytest.mark.slow
def test_eight_parts_are_one_batch_and_micro_batches_are_not(tiny):
    (value, per_dim), whole = _gradient(tiny, 1)
    (in_parts, per_dim_in_parts), gradient = _gradient(tiny, 8)
    assert float(in_parts) == pytest.approx(value.item(), rel=1e-5)
    np.testing.assert_allclose(per_dim_in_parts, per_dim, rtol=1e-5)
    whole, gradient = param_tree.flatten(whole), param_tree.flatten(gradient)
    differences = errors(gradient, whole)
    assert max(differences.values()) < 1e-5, differences
    embed, loss, weights, batch = pieces_of(tiny)
    micro = jax.jit(cached_value_and_grad(embed, loss, parts=1))
    each = [micro(weights, rows_of(batch, jnp.asarray(part), 8))[1] for part in range(8)]
    naive = param_tree.flatten(jax.tree.map(lambda *leaves: sum(leaves) / 8, *each))
    assert min(errors(naive, whole).values()) > 0.1


@pytest.mark.slow
def test_bfloat16_weights_have_a_float32_master(tiny):
    _, gradient = _gradient(tiny, 8)
    embed, loss, weights, batch = pieces_of(tiny, dtype=jnp.bfloat16)
    dtypes = {path: leaf.dtype.name for path, leaf in param_tree.flatten(weights).items()}
    assert dtypes.pop("embed_tokens.embedding") == "float32"
    assert set(dtypes.values()) == {"bfloat16"}
    rough = jax.jit(cached_value_and_grad(embed, loss, parts=8))(weights, batch)[1]
    differences = errors(param_tree.flatten(rough), param_tree.flatten(gradient))
    assert 1e-4 < max(differences.values()) < 0.1

    tower = mrl_jax.load_qwen3(tiny.tower, dtype=jnp.float32, trainable=True)
    for name in ("adamw", "adafactor"):
        optimizer = make_optimizer(
            OptimConfig(name=name, learning_rate=1e-4, warmup_fraction=0.0, weight_decay=0.1),
            10,
        )
        state = init_state(param_tree.split(tower).trained, optimizer)
        step = make_text_step(
            tower_rebuilder(tower.config, jnp.bfloat16, remat=False),  # Compiles faster.
            optimizer,
            LossConfig(dims=DIMS),
            dtype=jnp.bfloat16,
            accumulation_steps=8,
        )
        new, metrics = jax.jit(step)(state, {}, batch)
        before, after = (param_tree.flatten(x.trained) for x in (state, new))
        assert {leaf.dtype.name for leaf in after.values()} == {"float32"}
        # Steps far below what bfloat16 can hold are kept.
        moved = {path: float(jnp.max(jnp.abs(after[path] - before[path]))) for path in after}
        assert all(0 < size < 1.1e-3 for size in moved.values()), moved
        assert np.isfinite(float(metrics["gradient_norm"]))


@functools.cache
def _step_metrics(tiny, parallel, count, parts):
    """Metrics of one step on so many devices, in so many parts."""
    tower = mrl_jax.load_qwen3(tiny.tower, dtype=jnp.float32, trainable=True)
    _, _, _, batch = pieces_of(tiny, noise=NOISE)
    place = Devices(parallel, jax.devices()[:count])
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, warmup_fraction=0.0), 10)
    step = make_text_step(
        tower_rebuilder(tower.config, jnp.float32, remat=False),
        optimizer,
        LossConfig(dims=DIMS, symmetric=True),
        accumulation_steps=parts,
        axis_name=place.axis_name,
    )
    state = place.replicate(init_state(param_tree.split(tower).trained, optimizer))
    _, metrics = place.compile(step)(state, {}, place.put_batch(batch))
    return {name: np.asarray(value) for name, value in metrics.items()}


@pytest.mark.parametrize("parallel", mostly_slow(["pmap", "mesh"]))
def test_two_devices_take_the_same_step(tiny, parallel):
    one, two = _step_metrics(tiny, "pmap", 1, 1), _step_metrics(tiny, parallel, 2, 4)
    for name in ("loss", "loss_per_dim", "gradient_norm"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)


# From pairs to a tower folder.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    rows = [
        {"query": query, "document": document, "task_type": "find"} for query, document in PAIRS
    ]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [Query(id=f"q{i}", text=q, task="find") for i, (q, _) in enumerate(PAIRS[:12])]
    corpus = [Document(id=f"d{i}", text=d) for i, (_, d) in enumerate(PAIRS)]
    write_retrieval_set(
        root / "validation", queries, corpus, {f"q{i}": {f"d{i}": 1} for i in range(12)}
    )
    tiny_run.write_config(
        root / "tiny.py",
        f"""TextStageExperiment(
        name="tiny",
        model=TextModelConfig(
            new=NewTowerConfig(
                units="characters", width=32, num_layers=1, head_width=8, mlp_width=32
            ),
            dtype="float32",
            remat=False,
        ),
        data=TextDataConfig(
            train={str(root / "pairs.jsonl")!r},
            validation={str(root / "validation")!r},
            batch=TextBatchConfig(batch_size=8, max_tokens=64, prompts={{"find": "{PROMPT}"}}),
        ),
        loss=LossConfig(dims=(32, 16, 8)),
        optim=OptimConfig(learning_rate=1e-2, accumulation_steps=2),
        train=LoopConfig(steps=30, validate_every=15, checkpoint_every=5, tensorboard=False),
    )""",
    )
    return root


def load(world, *changes):
    return override(load_config(world / "tiny.py", TextStageExperiment), changes)


@pytest.fixture(scope="module")
def finished(world, one_device):
    lines = []
    run = train_text(load(world), world / "run", devices=one_device, log=lines.append)
    return run, lines


def test_a_run_learns_and_leaves_a_tower(finished, world):
    run, lines = finished
    assert run.finished
    rows = read_metrics(world / "run" / "metrics.jsonl")
    trained = [row for row in rows if row["kind"] == "train"]
    scores = [row["ndcg@10"] for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in trained] == list(range(1, 31))
    assert trained[-1]["loss"] < trained[0]["loss"] - 0.5
    assert {"loss/32", "loss/8", "gradient_norm", "pairs_per_second"} <= set(trained[0])
    assert len(scores) == 2
    assert max(scores) > 0.5  # Chance is 0.19.
    info = read_info(world / "run" / "tower")
    assert info.kind == "qwen3"
    assert info.digest != read_info(world / "run" / "initial").digest
    report = json.loads((world / "run" / "tower" / "report.json").read_text())
    assert report["scores"]["ndcg@10"] == max(scores)
    assert any("24 pairs, 30 steps of 8 in 2 part(s)" in line for line in lines)


def test_the_export_is_a_sentence_transformers_folder(finished, tmp_path):
    run, _ = finished
    export(run.folder, tmp_path / "out")
    model = sentence_transformer(tmp_path / "out")
    queries, documents = (list(side) for side in zip(*PAIRS, strict=True))
    theirs = model.encode(queries, prompt_name="find", convert_to_numpy=True)
    texts = [f"{PROMPT}\nQuery:{text}" for text in queries]
    tokenizer = TextTokenizer(run.folder, max_tokens=64)
    tower = mrl_jax.load_qwen3(run.folder)
    ours = np.asarray(tower.embed(*pad_tokens(tokenizer.encode(texts))))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    long = np.asarray(tower.embed(*pad_tokens(tokenizer.encode([documents[0] * 20]))))
    np.testing.assert_allclose(long, model.encode([documents[0] * 20]), atol=1e-5)
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    # Without the end token it would be another vector.
    ids = [row[:-1] for row in tokenizer.encode(texts)]
    assert np.abs(np.asarray(tower.embed(*pad_tokens(ids))) - theirs).max() > 1e-2


@pytest.mark.slow
def test_a_trained_tower_can_be_trained_on(finished, world, one_device, tmp_path):
    run, _ = finished
    config = dataclasses.replace(
        load(world, "train.steps=2", "data.validation="),
        model=dataclasses.replace(load(world).model, new=None, text_tower=str(run.folder)),
    )
    changes = ["model.dtype=bfloat16", "optim.name=adafactor", "data.batch.task_homogeneous=true"]
    config = override(config, [*changes, *NOISE_CHANGES])
    again = train_text(config, tmp_path / "run", devices=one_device, log=lambda _: None)
    assert again.info is not None
    assert again.folder is not None
    assert again.info.dtype == "bfloat16"
    tokenizer = "tokenizer.json"
    assert (again.folder / tokenizer).read_bytes() == (run.folder / tokenizer).read_bytes()


def test_a_stopped_run_goes_on_as_if_it_had_not(finished, world, one_device, monkeypatch, tmp_path):
    whole, _ = finished
    original = TextPairSource.__call__

    def stopping(self, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TextPairSource, "__call__", stopping)
        run = train_text(load(world), tmp_path / "run", devices=one_device, log=lambda _: None)
    assert not run.finished
    assert run.summary.step == 8
    lines = []
    run = train_text(load(world), tmp_path / "run", devices=one_device, log=lines.append)
    assert "resumed from step 8" in lines
    assert run.info is not None
    assert run.info.digest == whole.info.digest
    for change, message in (
        ("model.new.mlp_width=16", "the run began with a tower of other sizes"),
        ("optim.name=adafactor", "another model: its optimiser is adamw, expected adafactor"),
    ):
        with pytest.raises(MrlError, match=message):
            train_text(load(world, change), tmp_path / "run", devices=one_device)


@pytest.mark.slow
def test_a_packed_run_that_stops_and_goes_on_is_a_padded_one(world, monkeypatch, tmp_path):
    changes = ["train.steps=8", "train.validate_every=4", "optim.learning_rate=1e-3"]
    padded = train_text(load(world, *changes), tmp_path / "padded", log=lambda _: None)
    config = load(world, *changes, "data.batch.pack=true")
    original = PackedPairSource.__call__

    def stopping(self, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(PackedPairSource, "__call__", stopping)
        assert not train_text(config, tmp_path / "packed", log=lambda _: None).finished
    packed = train_text(config, tmp_path / "packed", log=lambda _: None)
    assert packed.finished
    assert padded.finished
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("packed", "padded")
    ]
    assert len(losses[0]) == 8
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.train={root}/empty.jsonl"], "line 2: `query` is empty"),
        (["data.train={root}/column.jsonl"], "line 1: has no `document`"),
        (["train.fsdp=2"], "train.fsdp is 2, which shards frozen weights"),
        (["loss.dims=[64,8]"], "loss.dims has 64, expected 1 to 32"),
        (["data.batch.batch_size=32"], "there are 24 pairs of texts, expected at least the 32"),
        (["data.batch.batch_size=9"], "expected a multiple of"),
        (["model.new=none", "model.text_tower={root}/towers/speech"], "is a hubert_ctc tower"),
        (["model.new=none", "model.text_tower={root}/nowhere"], "no such file"),
        (["loss.name=l1_cosine"], "expected matryoshka_infonce"),
        (["loss.learn_temperature=true"], "loss.learn_temperature is true"),
        (["model.dtype=float16"], "model.dtype is 'float16'"),
        (["model.new.width=0"], "model.new.width is 0, expected 1 or more"),
        (["model.new.num_heads=3"], "num_heads is 3, expected a multiple"),
        (["optim.name=sgd"], "optim.name is 'sgd', expected one of adamw, adafactor"),
        (["data.validation={root}/spoken"], "query 'q': has neither `text` nor `transcript`"),
        (["data.train={root}/task.jsonl"], "the task 'rag' has no prompt, expected one of find"),
        (["data.train={root}/id.jsonl"], "line 1: `query_id` is empty"),
        (["noise.mix=1.5"], "noise.mix is 1.5, expected 0 to 1"),
        (["noise.drop=1"], "noise.drop is 1.0, expected 0 or more and less than 1"),
        (["data.batch.pack=true", "noise.mix=0.1"], "pack is true, and there is noise on the tok"),
        (["data.batch.task_weights.find=2"], "and batches do not keep to one task"),
        (
            ["data.batch.task_homogeneous=true", "data.batch.task_weights.rag=2"],
            "data.batch.task_weights has none for the task 'find'",
        ),
    ],
)
def test_wrong_input_is_one_line_and_status_2(world, changes, message, tmp_path):
    if not (world / "towers").exists():
        make_towers(world / "towers")
        lines = {
            "empty": '{"query": "a", "document": "b"}\n{"query": "", "document": "b"}\n',
            "column": '{"query": "a", "answer": "b"}\n',
            "task": '{"query": "a", "document": "b", "task_type": "rag"}\n' * 24,
            "id": '{"query": "a", "document": "b", "query_id": ""}\n',
        }
        for name, text in lines.items():
            (world / f"{name}.jsonl").write_text(text)
        (world / "spoken").mkdir()
        (world / "spoken" / "a.wav").touch()
        audio = Query(id="q", audio=world / "spoken" / "a.wav")
        write_retrieval_set(
            world / "spoken", [audio], [Document(id="d", text="b")], {"q": {"d": 1}}
        )
    changes = [change.format(root=world) for change in changes]
    tiny_run.assert_refused(world / "tiny.py", tmp_path / "run", changes, message)
    assert not (tmp_path / "run" / "tower").exists()


def test_a_tokenizer_of_another_tower_is_refused(world, finished, one_device, tmp_path):
    run, _ = finished
    shutil.copytree(run.folder, tmp_path / "tower")
    files = new_tokenizer([*TEXTS, "αβγδεζηθικλμ"], units="characters")
    (tmp_path / "tower" / "tokenizer.json").write_text(files["tokenizer.json"])
    config = override(load(world, "model.new=none"), [f"model.text_tower={tmp_path / 'tower'}"])
    row = {"query": "λμ", "document": "ηθ"}
    (tmp_path / "greek.jsonl").write_text((json.dumps(row) + "\n") * 8)
    config = override(config, [f"data.train={tmp_path / 'greek.jsonl'}"])
    with pytest.raises(MrlError, match=r"the tokenizer gives the id \d+, and the tower has \d+"):
        train_text(config, tmp_path / "run", devices=one_device, log=lambda _: None)


@pytest.mark.parametrize("kind", ["plain", "byte level", "other"])
def test_every_tokenizer_is_made_to_append_the_end(kind):
    from tokenizers import Tokenizer, processors

    files = new_tokenizer(["a b c <s>"], units="characters")
    made = Tokenizer.from_str(files["tokenizer.json"])
    if kind == "byte level":
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    if kind == "other":
        made.post_processor = processors.TemplateProcessing(
            single="<unk> $A", special_tokens=[("<unk>", 1)]
        )
    changed = appending_end(made.to_str().encode(), 0, where="x")
    ids = Tokenizer.from_str(changed.decode()).encode("ab").ids
    assert ids == [*made.encode("ab", add_special_tokens=False).ids, 0]
    assert appending_end(changed, 0, where="x") == changed
    if kind == "byte level":
        assert b"ByteLevel" in changed
