"""A service on loopback, in a thread of the test."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from mrl_jax.inference.index.search_index import SearchIndex
from mrl_jax.serving.app import create_app
from mrl_jax.serving.config import ServeConfig
from mrl_jax.serving.engine import Engine
from mrl_jax.serving.server import make_server


@contextlib.contextmanager
def serving(
    index: SearchIndex, config: ServeConfig, *, warm: bool = False
) -> Iterator[tuple[str, Engine]]:
    """The address of a running service, and its engine."""
    engine = Engine(index, config)
    if warm:
        engine.warm_up()
    app = create_app(engine, config)
    server = make_server(app, config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", engine
        finally:
            server.should_exit = True
            thread.join()
            engine.stop()
