"""What a service accepts, and how much of it at once."""

import dataclasses
import ipaddress
import math
import re
from typing import Annotated

from mrl_jax.core.arguments import PositiveFloat, PositiveInt, Range, checked
from mrl_jax.core.errors import MrlError

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset((LOOPBACK, "localhost", "::1"))
BODIES = 40
"""The largest that are held at once."""


def host_name(host: str) -> str:
    """A name as it is compared: without brackets and the dot of the root, in small letters."""
    return host.strip().strip("[]").rstrip(".").lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, 127.0.0.2 for one."""
    name = host_name(host)
    try:
        return name in LOOPBACK_NAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Limits of a service. What is beyond them is refused with an HTTP status of 4xx.

    Attributes:
        host: address to listen at; only this machine reaches the default.
        port: to listen at; 0 for any that is free.
        allowed_hosts: names, with commas between, that requests may call this machine by; empty
            for its loopback names where it listens at loopback, and else for any.
        api_key: that requests name in `Authorization: Bearer KEY`; None for no key.
        batch_size: queries that are embedded together.
        wait_ms: milliseconds that a query waits for others, while nothing else is computed.
        queue_size: queries that may wait; further requests get the status 429.
        max_inputs: texts or recordings in a request.
        max_hits: documents that a search answers with.
        max_characters: of a text, and of a prompt.
        max_seconds: of a recording.
        max_body_mb: megabytes of a request's body; forty such bodies are held at once, and further
            ones get the status 503.
        header_seconds: that the head of a request may take to arrive, and a connection may be
            open without one; it is closed after them, or twice as long.
        body_seconds: that a body may take to arrive.
        requests_per_minute: of one client's address; None for no such limit.
        max_connections: open at once; further ones get the status 503.
        warm_seconds: programs are compiled before the first request for recordings up to this
            length, and while requests wait for longer ones.
        warm_tokens: the same for texts, in tokens.
    """

    host: str = LOOPBACK
    port: Annotated[int, Range(0.0, 65535.0)] = 8000
    allowed_hosts: str = ""
    api_key: str | None = dataclasses.field(default=None, repr=False)
    batch_size: PositiveInt = 16
    wait_ms: Annotated[float, Range(0.0, 1000.0)] = 2.0
    queue_size: PositiveInt = 256
    max_inputs: Annotated[int, Range(1.0, 10_000.0)] = 256
    max_hits: PositiveInt = 1000
    max_characters: PositiveInt = 20_000
    max_seconds: PositiveFloat = 60.0
    max_body_mb: PositiveFloat = 25.0
    header_seconds: PositiveFloat = 15.0
    body_seconds: PositiveFloat = 30.0
    requests_per_minute: PositiveInt | None = None
    max_connections: PositiveInt = 1024
    warm_seconds: PositiveFloat = 10.0
    warm_tokens: PositiveInt = 64

    def __post_init__(self) -> None:
        if not self.host.strip():  # To the system that is every address.
            hint = f"name one, or leave it out for {LOOPBACK}"
            raise MrlError("the host is empty", hint=hint)
        # Spaces and line breaks would be lost on the way.
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            hint = "choose one of ASCII letters and digits"
            raise MrlError("the API key is empty, has a space in it, or is not ASCII", hint=hint)
        if self.max_inputs > self.queue_size:
            problem = f"max_inputs is {self.max_inputs}, above the queue_size of {self.queue_size}"
            raise MrlError(problem, hint="choose a longer queue")
        for name in filter(None, map(str.strip, self.allowed_hosts.split(","))):
            if not re.fullmatch(r"[\w.-]+|\[?[\da-fA-F:.]*:[\da-fA-F:.]*:[\da-fA-F:.]*\]?", name):
                hint = "write names and addresses alone, without http:// and port"
                raise MrlError(f"allowed_hosts has {name!r:.100}, which is no name", hint=hint)
        for name in ("max_seconds", "max_body_mb", "header_seconds", "body_seconds"):
            if math.isinf(getattr(self, name)):
                raise MrlError(f"{name} is infinite", hint="choose a number")

    @property
    def host_names(self) -> frozenset[str]:
        """Names that a request's Host may be; empty for any."""
        names = {host_name(name) for name in self.allowed_hosts.split(",")} - {""}
        if names or not is_loopback(self.host):
            return frozenset(names)
        return LOOPBACK_NAMES | {host_name(self.host)}

    @property
    def max_body(self) -> int:
        """Bytes of a body."""
        return round(self.max_body_mb * 1e6)

    @property
    def max_held(self) -> int:
        """Bytes of all bodies that are held at once."""
        return BODIES * self.max_body
