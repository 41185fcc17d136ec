"""One step on 1, 2 and 4 devices, by pmap and by mesh, in one process and in two.

Every case is compared with the full batch on a single device. Run as a script, this file
is one process of such a run, as the number of devices is fixed when JAX starts.
"""

import json
import os
import re
import socket
import subprocess
import sys
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec
from repository import HELPERS, ROOT
from tiers import mostly_slow
from tiny_fusion import DIMS, tiny_batch, tiny_model

from mrl_jax.core.errors import MrlError
from mrl_jax.losses.config import LossConfig
from mrl_jax.losses.matryoshka import matryoshka_infonce
from mrl_jax.models.late_fusion import LateFusion
from mrl_jax.nn.param_tree import split
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.devices import AXIS, Devices, Parallel
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import TrainState, init_state

WIDTH, SAMPLES, STEPS = 16, 24, 20
LOSSES = {
    "infonce": LossConfig(dims=DIMS),
    "symmetric, learned": LossConfig(
        dims=(4, 16), weights=(1.0, 3.0), symmetric=True, learn_temperature=True
    ),
    "l1_cosine": LossConfig(dims=DIMS, name="l1_cosine"),
    # Untrained towers embed all clips nearly alike: at 0.05 the order of a batch's rows alone
    # moves the gradient by 3e-6 of its size, in float32.
    "mild": LossConfig(dims=DIMS, temperature=1.0),
}


class LinearTowers(LateFusion):
    """What the step needs of a model, as two matrices."""

    def __init__(self, trained, frozen):
        self.trained, self.frozen = nnx.data(trained), nnx.data(frozen)

    def embed_speech(self, samples, lengths, prompt=None, prompt_mask=None):
        return samples @ self.trained["kernel"] + self.trained["bias"][None, :]

    def embed_text(self, tokens, mask):
        vectors = self.frozen["text"][tokens] * mask[..., None].astype(jnp.float32)
        return vectors.sum(axis=1)

    def temperature(self, fixed):
        if "log_temperature" not in self.trained:
            return fixed
        return jnp.exp(self.trained["log_temperature"])


def linear(config):
    rng = np.random.default_rng(7)
    trained = {
        "kernel": jnp.asarray(rng.normal(size=(SAMPLES, WIDTH)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=WIDTH), jnp.float32),
    }
    if config.learn_temperature:
        trained["log_temperature"] = jnp.log(jnp.float32(0.05))
    return LinearTowers, trained, {"text": jnp.asarray(rng.normal(size=(31, WIDTH)), jnp.float32)}


def late_fusion(config):
    parts = split(tiny_model(learn_temperature=config.learn_temperature))
    return parts.rebuild, parts.trained, parts.frozen


def recording():
    """AdamW behind a state that holds the gradients as they came."""

    def update(updates, state, params=None):
        return updates, updates

    record = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), update
    )
    adamw = make_optimizer(OptimConfig(learning_rate=1e-3, weight_decay=0.1), STEPS)
    return optax.chain(record, adamw)


def compiled_step(place, rebuild, optimizer, config, accumulation_steps=1) -> Any:
    return place.compile(
        make_train_step(
            rebuild,
            optimizer,
            config,
            accumulation_steps=accumulation_steps,
            axis_name=place.axis_name,
        )
    )


def observe(first, state, metrics):
    """Numbers to compare: the first gradients, the last loss and weights."""
    return {
        "loss": np.asarray(metrics["loss_per_dim"]),
        "gradient": first,
        "weights": jax.tree.map(np.asarray, state.trained),
    }


def furthest(result, expected):
    """Largest difference of each kind, as a fraction of its largest value where that is above 1."""
    return {
        kind: max(
            float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1.0))
            for a, b in zip(
                jax.tree.leaves(result[kind]), jax.tree.leaves(expected[kind]), strict=True
            )
        )
        for kind in expected
    }


def full_batches(model):
    samples = SAMPLES if model is linear else 480
    return [tiny_batch(8, samples=samples, seed=seed) for seed in range(STEPS)]


def plain(model, config, accumulation_steps=1):
    """All steps on one device, with nothing of parallel.py; parts are spelt out."""
    rebuild, trained, frozen = model(config)
    optimizer = recording()
    state = init_state(trained, optimizer)
    record = optax.chain(recording(), optax.set_to_zero())
    zeros = record.init(trained)
    one = jax.jit(make_train_step(rebuild, record, config))
    first, losses = None, []
    for batch in full_batches(model):
        results = []
        for part in range(accumulation_steps):
            rows = jax.tree.map(lambda x, p=part: x[p::accumulation_steps], batch)
            results.append(one(TrainState(state.step, state.trained, zeros), frozen, rows))
        gradients = [new.optimizer[0][0] for new, _ in results]
        mean = jax.tree.map(lambda *x: sum(x) / len(x), *gradients)
        first = jax.tree.map(np.asarray, mean) if first is None else first
        losses = [metrics["loss_per_dim"] for _, metrics in results]
        updates, inner = jax.jit(optimizer.update)(mean, state.optimizer, state.trained)
        state = TrainState(state.step + 1, optax.apply_updates(state.trained, updates), inner)
    return observe(first, state, {"loss_per_dim": sum(losses) / len(losses)})


def parallel_run(model, config, parallel, devices, accumulation_steps=1, fsdp=1):
    """The same steps through `Devices`, each process with its own rows."""
    rebuild, trained, frozen = model(config)
    optimizer = recording()
    place = Devices(parallel, devices, fsdp)
    state = place.replicate(init_state(trained, optimizer))
    whole = sum(x.nbytes for x in jax.tree.leaves(frozen))
    frozen = place.place_frozen(frozen, least=1)
    # What one device holds of the frozen weights: its part, and what cannot be cut.
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(frozen))
    assert held == whole if fsdp == 1 else held < 1.2 * whole / fsdp
    step = compiled_step(place, rebuild, optimizer, config, accumulation_steps)
    first, metrics = None, {}
    for batch in full_batches(model):
        share = 8 // jax.process_count()
        begin = jax.process_index() * share
        mine = jax.tree.map(lambda x, b=begin, s=share: x[b : b + s], batch)
        state, metrics = step(state, frozen, place.put_batch(mine))
        first = jax.tree.map(np.array, state.optimizer[0]) if first is None else first
    return observe(first, state, metrics)


def all_cases(counts, more):
    """(name, model, config, parallel, devices, parts): with parts as well as the full batch."""
    most = counts[-1]
    for kind in ("pmap", "mesh"):
        for count in counts:
            yield f"infonce, {kind} {count}", linear, LOSSES["infonce"], kind, count, 1
        yield f"accumulated, {kind} {most}", linear, LOSSES["infonce"], kind, most, 2
    if more:
        for name, kind in (("symmetric, learned", "pmap"), ("l1_cosine", "mesh")):
            yield f"{name}, {kind} {most}", linear, LOSSES[name], kind, most, 1
        yield f"towers, pmap {most}", late_fusion, LOSSES["mild"], "pmap", most, 1
        yield "towers, accumulated, mesh 1", late_fusion, LOSSES["mild"], "mesh", 1, 8
        for share in (2, most):
            kind = f"mesh, fsdp {share}"
            yield f"towers, {kind}", late_fusion, LOSSES["mild"], kind, most, 1


def compare(counts, more):
    expected, errors = {}, {}
    for name, model, config, parallel, count, parts in all_cases(counts, more):
        key = model, config
        if key not in expected:
            expected[key] = plain(model, config)
        kind, _, share = parallel.partition(", fsdp ")
        devices = jax.devices()[:count]
        result = parallel_run(model, config, kind, devices, parts, int(share or 1))
        errors[name] = furthest(result, expected[key])
    return errors


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HELPERS)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


def check(errors, number):
    assert len(errors) == number
    for name, error in errors.items():
        assert max(error.values()) < 1e-6, (name, error)


def test_one_two_and_four_devices_equal_one_full_batch():
    check(answer(start("devices", 4, 1, 2, 4)), 14)


@pytest.mark.slow
def test_two_processes_equal_one_full_batch():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start("process", port, index) for index in range(2)]
    for process in processes:
        check(answer(process), 4)


def test_a_difference_would_be_seen():
    """The comparison above must tell one loss from another, and one split from another."""
    config = LOSSES["infonce"]
    full, parts = plain(linear, config), plain(linear, config, 2)
    other = plain(linear, LossConfig(dims=DIMS, symmetric=True))
    # Parts see their own negatives only.
    for wrong in (parts, other):
        error = furthest(wrong, full)
        assert error["loss"] > 1e-2
        assert error["gradient"] > 1e-3


class TestWhichReductionIsRight:
    """TRAPS as code: what to do to gradients of a loss over several devices."""

    batch = tiny_batch(8, samples=SAMPLES, seed=3)
    config = LOSSES["infonce"]

    def loss(self, trained, batch, axis_name):
        model = LinearTowers(trained, linear(self.config)[2])
        return matryoshka_infonce(
            model.embed_speech(batch.samples, batch.lengths),
            model.embed_text(batch.document, batch.document_mask),
            dims=DIMS,
            where=jnp.asarray(batch.rows),
            axis_name=axis_name,
        )

    def full(self):
        trained = linear(self.config)[1]
        return jax.jit(jax.grad(lambda t: self.loss(t, self.batch, None).total))(trained)

    def by_pmap(self, function):
        parts = jax.tree.map(lambda x: np.reshape(x, (2, -1, *x.shape[1:])), self.batch)
        run = jax.pmap(function, AXIS, in_axes=(None, 0), devices=jax.devices()[:2])
        return jax.tree.map(lambda x: x[0], run(linear(self.config)[1], parts))

    def by_shard_map(self, function, check_vma):
        mesh = Mesh(np.asarray(jax.devices()[:2]), (AXIS,), axis_types=(AxisType.Auto,))
        spec = PartitionSpec(), PartitionSpec(AXIS)
        run = jax.shard_map(
            function, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=check_vma
        )
        return jax.jit(run)(linear(self.config)[1], jax.tree.map(jnp.asarray, self.batch))

    def gradient(self, trained, batch):
        return jax.grad(lambda t: self.loss(t, batch, AXIS).total)(trained)

    def off_by(self, gradient, times=1.0):
        full = self.full()
        return max(
            float(np.max(np.abs(np.asarray(a) - times * np.asarray(b))))
            for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(full), strict=True)
        )

    def test_the_mean_of_the_gradients(self):
        def mean(trained, batch):
            return lax.pmean(self.gradient(trained, batch), AXIS)

        assert self.off_by(self.by_pmap(mean)) < 1e-6
        assert self.off_by(self.by_shard_map(mean, check_vma=False)) < 1e-6

    def test_their_sum_is_as_many_times_too_large_as_there_are_devices(self):
        def total(trained, batch):
            return lax.psum(self.gradient(trained, batch), AXIS)

        gradient = self.by_pmap(total)
        assert self.off_by(gradient, times=2.0) < 2e-6
        assert self.off_by(gradient) > 1e-3

    def test_a_mean_over_each_devices_rows_is_wrong_where_rows_are_masked(self):
        def local(trained, batch):
            def mean(t):
                rows = self.loss(t, batch, AXIS).per_row.mean(axis=0)
                return rows.sum() / jnp.asarray(batch.rows).astype(jnp.float32).sum()

            return lax.pmean(jax.grad(mean)(trained), AXIS)

        assert self.off_by(self.by_pmap(local)) > 1e-3

    def test_checked_shard_map_has_summed_already(self):
        """With check_vma=True the gradient of a replicated input is a sum over devices."""

        def mean_of_local(trained, batch):
            def mean(t):
                return jnp.mean(jnp.square(batch.samples @ t["kernel"]))

            return lax.pmean(jax.grad(mean)(trained)["kernel"], AXIS)

        def gradient_of_mean(trained, batch):
            def mean(t):
                return lax.pmean(jnp.mean(jnp.square(batch.samples @ t["kernel"])), AXIS)

            return jax.grad(mean)(trained)["kernel"]

        samples, speech = self.batch.samples, linear(self.config)[1]["kernel"]
        full = jax.grad(lambda w: jnp.mean(jnp.square(samples @ w)))(speech)
        twice = self.by_shard_map(mean_of_local, check_vma=True)
        np.testing.assert_allclose(twice, 2 * full, atol=1e-5)
        right = self.by_shard_map(gradient_of_mean, check_vma=True)
        np.testing.assert_allclose(right, full, atol=1e-5)
        unchecked = self.by_shard_map(mean_of_local, check_vma=False)
        np.testing.assert_allclose(unchecked, full, atol=1e-5)


@pytest.mark.parametrize("parallel", mostly_slow(["pmap", "mesh"]))
def test_devices_exchange_vectors_and_gradients_and_nothing_longer(parallel):
    """No frames, no tokens: what is gathered has a row a clip at most, whatever XLA chooses."""
    rebuild, trained, frozen = late_fusion(LOSSES["infonce"])
    place, optimizer = Devices(parallel, jax.devices()[:2]), make_optimizer(OptimConfig(), 5)
    state, frozen = place.replicate((init_state(trained, optimizer), frozen))
    step = compiled_step(place, rebuild, optimizer, LOSSES["infonce"])
    batch = place.put_batch(tiny_batch(8, samples=480))
    program = step.lower(state, frozen, batch).compile().as_text()
    gathered = re.findall(r" = \w+\[([\d,]*)\]\S* all-gather\(", program)
    assert gathered
    most = 8 * tiny_model().text.config.width
    assert all(np.prod([int(size) for size in shape.split(",")]) <= most for shape in gathered)
    assert not re.search(r" (all-to-all|collective-permute)\(", program)


def test_sharded_weights_are_gathered_to_the_rows():
    """No activation is gathered or reduced over devices: what is sent does not grow with rows."""
    rows = 22  # No size of the towers.
    rebuild, trained, frozen = late_fusion(LOSSES["infonce"])
    place, optimizer = Devices("mesh", jax.devices()[:2], 2), make_optimizer(OptimConfig(), 5)
    state = place.replicate(init_state(trained, optimizer))
    step = compiled_step(place, rebuild, optimizer, LOSSES["infonce"])
    batch = place.put_batch(tiny_batch(rows, samples=480))
    frozen = place.place_frozen(frozen, least=1)
    program = step.lower(state, frozen, batch).compile().as_text()
    pattern = r" = \w+\[([\d,]+)\]\S* (?:all-gather|all-reduce)\("
    sent = [tuple(map(int, shape.split(","))) for shape in re.findall(pattern, program)]
    assert any(len(shape) > 2 for shape in sent)  # Weights.
    a_vector_a_row = rows * tiny_model().text.config.width
    assert not [shape for shape in sent if rows in shape and np.prod(shape) > a_vector_a_row]


@pytest.mark.parametrize("parallel", ["pmap", "mesh"])
def test_the_old_state_is_consumed_and_frozen_arrays_are_not(parallel):
    rebuild, trained, frozen = linear(LOSSES["infonce"])
    place, optimizer = Devices(parallel), make_optimizer(OptimConfig(), 5)
    state = place.replicate(init_state(trained, optimizer))
    frozen = place.replicate(frozen)
    step = compiled_step(place, rebuild, optimizer, LOSSES["infonce"])
    batch = place.put_batch(tiny_batch(8, samples=SAMPLES))
    new, _ = step(state, frozen, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, frozen, batch, trained)))


def test_a_batch_is_split_in_order():
    batch = tiny_batch(8, samples=SAMPLES)
    shapes = {"pmap": (2, 4, SAMPLES), "mesh": (8, SAMPLES)}
    for parallel in get_args(Parallel):
        put = Devices(parallel).put_batch(batch)
        assert put.samples.shape == shapes[parallel]
        np.testing.assert_array_equal(np.reshape(put.samples, (8, -1)), batch.samples)
        assert len(put.samples.sharding.device_set) == 2


@pytest.mark.parametrize(
    ("parallel", "fsdp", "message"),
    [
        ("mesh", 3, "train.fsdp is 3, and there are 2 devices. Set it to a divisor of 2"),
        ("mesh", 4, "train.fsdp is 4, and there are 2 devices"),
        ("pmap", 2, "pmap replicates its weights. Set train.parallel=mesh"),
        ("mesh", 0, "train.fsdp is 0, expected 1 or more"),
    ],
)
def test_weights_that_cannot_be_sharded(parallel, fsdp, message):
    with pytest.raises(MrlError, match=message):
        Devices(parallel, jax.devices()[:2], fsdp)


def test_more_devices_than_there_are():
    assert Devices.named("pmap").global_devices == jax.devices()
    assert Devices.named("mesh", count=1).global_devices == jax.devices()[:1]
    for count in (3, -1):
        message = rf"train.devices is {count}, and there are 2 \(cpu\)\. Set it to 2 at most"
        with pytest.raises(MrlError, match=message):
            Devices.named("pmap", count=count)


def test_batches_that_cannot_be_split():
    place = Devices("pmap")
    place.check_batch(8)
    place.check_batch(8, 4)
    with pytest.raises(MrlError, match=r"is 7, expected a multiple of 2: 2 devices\. Make it 6"):
        place.check_batch(7)
    with pytest.raises(MrlError, match="multiple of 8: 2 devices x 4 accumulation steps"):
        place.check_batch(12, 4)
    with pytest.raises(MrlError, match="Make it 2"):
        place.check_batch(1)


def main(kind, *arguments):
    numbers = [int(argument) for argument in arguments]
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_disable_most_optimizations", True)  # Compiles in a third of the time.
    if kind == "devices":
        jax.config.update("jax_num_cpu_devices", numbers[0])
        errors = compare(numbers[1:], more=True)
    else:
        jax.config.update("jax_num_cpu_devices", 2)
        jax.distributed.initialize(f"localhost:{numbers[0]}", 2, numbers[1])
        errors = compare([4], more=False)
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
