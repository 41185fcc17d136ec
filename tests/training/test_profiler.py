"""`train.profile`: a trace that JAX's own reader opens, of the steps that were asked for."""

import jax
import pytest
import tiny_run

from mrl_jax.core.errors import MrlError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("profiled"), examples=24)


def traced_steps(folder) -> set[int]:
    """Numbers of the steps in a trace, as jax.profiler reads it."""
    (file,) = folder.rglob("*.xplane.pb")
    found = set()
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if event.name.startswith("train") and "step_num" in stats:
                    found.add(int(stats["step_num"]))
    return found


def test_the_steps_of_the_window_are_traced(root):
    losses, lines = tiny_run.four_steps(root, "traced", "train.profile=2:3")
    assert traced_steps(root / "traced" / "profile") == {2, 3}
    assert any(line.startswith("trace of steps 2 to 3 in ") for line in lines)
    without, _ = tiny_run.four_steps(root, "untraced")
    assert losses == without
    assert not (root / "untraced" / "profile").exists()


def test_a_run_that_fails_inside_the_window_ends_its_trace(root):
    with tiny_run.sigterm_after(2):
        _, lines = tiny_run.four_steps(root, "stopped", "train.profile=2:4")
    traced = traced_steps(root / "stopped" / "profile")
    assert 2 in traced
    assert any(line.startswith(f"trace of steps 2 to {max(traced)} in ") for line in lines)
    with jax.profiler.trace(root / "again"):  # None is under way.
        pass


@pytest.mark.slow
def test_a_run_that_is_resumed_inside_the_window_traces_the_rest(root):
    with tiny_run.sigterm_after(2):
        tiny_run.four_steps(root, "resumed")
    done = max(int(path.name) for path in (root / "resumed" / "checkpoints").glob("[0-9]*"))
    _, lines = tiny_run.four_steps(root, "resumed", "train.profile=2:4")
    assert traced_steps(root / "resumed" / "profile") == set(range(done + 1, 5))
    assert any(line.startswith(f"trace of steps {done + 1} to 4 in ") for line in lines)
    _, lines = tiny_run.four_steps(root, "resumed", "train.profile=1:2")
    assert "note: no step of train.profile=1:2 was done, so none was traced" in lines


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("3:5", "train.profile is '3:5', and the run has 4 steps"),
        ("4", "expected FIRST:LAST"),
        ("0:2", "holds no step"),
        ("3:2", "holds no step"),
        ("a:b", "expected FIRST:LAST"),
    ],
)
def test_windows_that_are_refused(root, window, expected):
    with pytest.raises(MrlError, match=expected):
        tiny_run.four_steps(root, "refused", f"train.profile={window}")
