"""The HTTP server: uvicorn, which closes connections that wait without a request."""

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mrl_jax.serving.config import ServeConfig

STOP_SECONDS = 10
"""That requests have to end once the service is asked to."""


class Server(uvicorn.Server):
    """Leaves signals to the caller, so that they end the service without an error."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(app: Any, config: ServeConfig) -> Server:
    """A server of an app that answers within the limits of a config."""

    class Protocol(H11Protocol):
        """Closes a connection that says nothing, or does not end the head of a request.

        uvicorn itself closes those alone that had an answer and then say nothing.
        """

        def connection_made(self, transport: Any) -> None:  # That of uvloop is no asyncio one.
            super().connection_made(transport)
            self._look_again()

        def _look_again(self) -> None:
            self.loop.call_later(config.header_seconds, self._close_idle, self.cycle)

        def _close_idle(self, last: Any) -> None:
            if self.transport.is_closing():
                return
            if self.cycle is last and (last is None or last.response_complete):
                self.transport.close()
            else:
                self._look_again()

    options = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        limit_concurrency=config.max_connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
    )
    return Server(options)
