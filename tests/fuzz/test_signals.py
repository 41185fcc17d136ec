"""Kills and signals at random moments of every stage: recovered, or ended as asked.

`MRL_ACCIDENTS=60` makes 60 kills and 60 signals instead of a few; `MRL_SEED` draws others.
"""

import os
import random
import signal
from collections.abc import Iterator

import pytest
from accidents import Stages, accident
from forked_train import ForkServer
from tiers import mostly_slow

COUNT = int(os.environ.get("MRL_ACCIDENTS", "2"))
SEED = os.environ.get("MRL_SEED", "0")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Iterator[Stages]:
    with ForkServer() as server:
        yield Stages(tmp_path_factory.mktemp("stages"), server)


@pytest.mark.parametrize("kind", ["kill", "signal"])
@pytest.mark.parametrize("number", mostly_slow(range(COUNT)))
def test_an_accident_at_a_random_moment(kind, number, stages):
    draw = random.Random(f"{SEED} {kind} {number}")
    names = list(stages.stages)
    # Every stage in turn, from one that the seed names.
    name = names[(number + random.Random(f"{SEED} {kind}").randrange(len(names))) % len(names)]
    which = signal.SIGKILL
    if kind == "signal":
        which = draw.choice((signal.SIGTERM, signal.SIGINT))
    part = draw.uniform(0, 1)
    outcome = accident(stages, name, which, part, whole=number % 6 == 5)
    print(f"\n{name}: {which.name} after {part:.0%} of its time: {outcome}", flush=True)
