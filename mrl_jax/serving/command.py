"""Serve an index: an HTTP API, and a page to speak into.

mrl-jax serve INDEX
mrl-jax serve INDEX --host 0.0.0.0 --port 80     for other machines; set an API key as well
MRL_JAX_API_KEY=... mrl-jax serve INDEX          requests must name the key
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError, describe_os_error, first_line
from mrl_jax.core.extras import require
from mrl_jax.core.paths import user_path
from mrl_jax.inference.model_option import MOVED_HELP, model_option

if TYPE_CHECKING:
    from mrl_jax.serving.config import ServeConfig

KEY_VARIABLE = "MRL_JAX_API_KEY"
OPTIONS = {
    "host": "address to listen at; only this machine reaches the default",
    "allowed_hosts": "names, with commas between, that requests may call this machine by; default: "
    "localhost and the like at loopback, else any",
    "port": "to listen at; 0 for any that is free",
    "batch_size": "queries that are embedded together",
    "wait_ms": "milliseconds that a query waits for others",
    "queue_size": "queries that may wait; further requests get the status 429",
    "max_inputs": "texts or recordings in a request",
    "max_hits": "documents that a search answers with",
    "max_characters": "of a text, and of a prompt",
    "max_seconds": "of a recording",
    "max_body_mb": "megabytes of a request's body",
    "header_seconds": "that a connection may be open without a request",
    "body_seconds": "that a body may take to arrive",
    "requests_per_minute": "of one client's address; default: no limit",
    "max_connections": "open at once; further ones get the status 503",
    "warm_seconds": "length of recordings that programs are compiled for before the first request",
    "warm_tokens": "the same for texts, in tokens",
}


def main(argv: Sequence[str], *, prog: str = "mrl-jax serve") -> int:
    from mrl_jax.serving.config import ServeConfig

    args = _parser(prog).parse_args(argv)
    require("starlette", "uvicorn", "pydantic", "multipart", "prometheus_client", by="serving")
    values = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    config = ServeConfig(api_key=os.environ.get(KEY_VARIABLE), **values)
    with _listening(config) as listener:  # A port in use is known before anything is loaded.
        return _serve(args.index, args.model, config, listener)


def _parser(prog: str) -> CommandParser:
    from mrl_jax.serving.config import ServeConfig

    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument("index", type=user_path, metavar="INDEX", help="folder of an index")
    parser.add_argument("--model", type=model_option, help=MOVED_HELP)
    default = ServeConfig()
    for name, text in OPTIONS.items():
        value = getattr(default, name)
        kind = int if value is None else type(value)
        text = text if value in (None, "") else f"{text}; default: {value}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, dest=name, help=text)
    return parser


@contextlib.contextmanager
def _listening(config: "ServeConfig") -> Iterator[socket.socket]:
    """A socket that listens at the config's address.

    Raises:
        MrlError: the port is in use, or the address is not of this machine.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, *_, address = socket.getaddrinfo(
                config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except (OSError, UnicodeError) as error:  # The latter of what can be no name.
            words = first_line(error)
            if isinstance(error, OSError):
                # Errors of a name's lookup have numbers of their own.
                is_lookup = isinstance(error, socket.gaierror)
                words = error.strerror if is_lookup else describe_os_error(error)
            where, hint = f"{config.host}:{config.port}", "choose another --port or --host"
            raise MrlError(f"cannot listen there: {words}", where=where, hint=hint) from error
        yield listener


def _serve(index: Any, model: Any, config: "ServeConfig", listener: socket.socket) -> int:
    from mrl_jax.core.compilation_cache import keep_compiled
    from mrl_jax.inference.index.open_index import open_index
    from mrl_jax.serving.app import create_app
    from mrl_jax.serving.engine import Engine

    keep_compiled()
    engine = Engine(open_index(index, model), config)
    try:
        compiled = engine.warm_up(progress=True)
        host, port = listener.getsockname()[:2]
        name = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
        place = f"http://{name}:{port}/"
        documents = f"{len(engine.index):,} documents"
        print(f"{documents}, {compiled} programs compiled; the page is at {place}", flush=True)
        asyncio.run(_run(create_app(engine, config), config, listener))
    finally:
        engine.stop()
    return 0


async def _run(app: Any, config: "ServeConfig", listener: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C, which let the requests at hand end."""
    from mrl_jax.serving.server import make_server

    server, loop = make_server(app, config), asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, server.handle_exit, signum, None)
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    sys.exit(run_command(main))
