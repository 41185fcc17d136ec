"""Processes that were forked after JAX had started, in which it hangs."""

import os

from mrl_jax.core.errors import MrlError


class Owner:
    """The process that something with threads was made in."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def check(self, what: str) -> None:
        """Refuse to go on in another process than the first.

        Raises:
            MrlError: this is a forked child, where the threads are missing.
        """
        if (process := os.getpid()) != self.process:
            raise MrlError(
                f"{what} was made in process {self.process} and is used in its forked child, "
                f"{process}, where JAX would wait for ever for threads that were not forked",
                hint='start processes by multiprocessing.get_context("spawn"), or load in each',
            )
