"""Work of several threads done together: results go to whom they belong, and mistakes too."""

import concurrent.futures
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.serving.batcher import Batcher, QueueFullError, StoppedError


class Doubling:
    """Doubles numbers; waits at a gate, and refuses negative ones."""

    def __init__(self, *, is_open: bool = True):
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.calls: list[tuple[object, list[int]]] = []
        if is_open:
            self.gate.set()

    def __call__(self, kind, values):
        self.begun.set()
        self.gate.wait(10)
        self.calls.append((kind, list(values)))
        if any(value < 0 for value in values):
            raise MrlError("negative")
        return [2 * value for value in values]


def batcher(run, *, batch_size=4, wait=0.0, queue=64) -> Batcher:
    return Batcher(run, batch_size=batch_size, wait_seconds=wait, queue_size=queue)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-1, 9)), max_size=30))
def test_each_item_gets_its_own_result(items):
    run = Doubling(is_open=False)
    work = batcher(run)
    futures = [(value, work.submit(kind, [value])[0]) for kind, value in items]
    run.gate.set()
    work.stop()
    for value, future in futures:
        if value < 0:
            assert isinstance(future.exception(), MrlError)
        else:
            assert future.result() == 2 * value
    assert all(len(values) <= 4 for _, values in run.calls)
    of_kind: dict[object, set[int]] = {
        kind: {value for k, value in items if k == kind} for kind in "ab"
    }
    assert all(set(values) <= of_kind[kind] for kind, values in run.calls)


def test_items_of_a_kind_that_wait_are_one_call_in_order_of_the_first():
    run = Doubling(is_open=False)
    work = batcher(run)
    work.submit("a", [0])
    assert run.begun.wait(10)  # The rest waits.
    for kind, value in (("b", 1), ("a", 2), ("b", 3), ("a", 4)):
        work.submit(kind, [value])
    run.gate.set()
    work.stop()
    assert run.calls == [("a", [0]), ("b", [1, 3]), ("a", [2, 4])]


def test_an_item_waits_for_others_as_long_as_it_was_told():
    run = Doubling()
    work = batcher(run, wait=30.0, batch_size=2)
    first = work.submit("a", [1])[0]
    with pytest.raises(concurrent.futures.TimeoutError):
        first.result(timeout=0.05)
    work.submit("a", [2])
    assert first.result(timeout=10) == 2
    work.stop()
    assert run.calls == [("a", [1, 2])]


def test_a_full_queue_takes_all_of_a_request_or_nothing():
    run = Doubling(is_open=False)
    work = batcher(run, queue=3)
    work.submit("a", [0])
    assert run.begun.wait(10)
    futures = work.submit("a", [1, 2])
    with pytest.raises(QueueFullError):
        work.submit("a", [3, 4])
    assert len(work) == 2
    futures += work.submit("a", [5])
    run.gate.set()
    assert [future.result(10) for future in futures] == [2, 4, 10]
    work.stop()


def test_what_a_client_no_longer_wants_is_not_computed():
    run = Doubling(is_open=False)
    work = batcher(run)
    work.submit("a", [0])
    assert run.begun.wait(10)
    gone, kept = work.submit("b", [1, 2])
    assert gone.cancel()
    run.gate.set()
    work.stop()
    assert kept.result() == 4
    assert run.calls[-1] == ("b", [2])


def test_an_error_of_the_program_reaches_all_and_the_thread_lives_on():
    def run(kind, values):
        if kind == "broken":
            raise ZeroDivisionError
        return values

    work = batcher(run)
    with pytest.raises(ZeroDivisionError):
        work.submit("broken", [1])[0].result(10)
    assert work.alive
    assert work.submit("a", [1])[0].result(10) == 1
    work.stop()
    with pytest.raises(StoppedError):
        work.submit("a", [1])
    assert not work.alive
