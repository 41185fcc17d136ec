"""What is refused before it is read: large or slow bodies, wrong keys, too many requests."""

import asyncio
import dataclasses
import hmac
import math
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from mrl_jax.serving.config import ServeConfig, host_name
from mrl_jax.serving.requests import error_body, json_bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/healthz", "/page/")
"""Read without a key: the page, which asks for one, and whether the service is well."""
FORGET_SECONDS = 120.0


class _Refusal(Exception):
    def __init__(self, status: int, message: str, kind: str, **headers: str):
        super().__init__(message)
        self.status, self.message, self.kind, self.headers = status, message, kind, headers


@dataclasses.dataclass
class _Body:
    """What arrived of a request's body."""

    parts: list[bytes] = dataclasses.field(default_factory=list)
    size: int = 0


class Limits:
    """ASGI middleware that refuses, in one line of JSON, what is beyond a `ServeConfig`.

    Args:
        refused: called with the status of each refusal.
    """

    def __init__(
        self, app: App, *, config: ServeConfig, refused: Callable[[int], None] | None = None
    ):
        self._app, self._config, self._refused = app, config, refused
        self._held = 0  # Bytes of bodies, until their requests are answered.
        self._allowances: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body()
        try:
            try:
                self._check(scope)
                await self._read(body, scope, receive)
            except _Refusal as refusal:
                if self._refused is not None:
                    self._refused(refusal.status)
                await _answer(send, refusal)
                return
            await self._app(scope, _whole(b"".join(body.parts), receive), send)
        finally:
            self._held -= body.size

    def _check_host(self, name: str) -> None:
        """Refuse a name that the service was not given.

        A page of another site, whose name its owner has pointed at this machine, is then no way
        to a service that only this machine reaches.
        """
        allowed = self._config.host_names
        host = host_name(re.sub(r":\d*$", "", name))
        if allowed and host not in allowed:
            message = f"the host {host[:100]!r} is not one of this service: see --allowed-hosts"
            raise _Refusal(421, message, "invalid_request_error")

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        self._check_host(headers.get(b"host", b"").decode("latin-1"))
        path, key = scope["path"], self._config.api_key
        is_open = path in OPEN_PATHS[:2] or path.startswith(OPEN_PATHS[2])
        if key is not None and not is_open:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {key}".encode()):
                message = "the API key is missing or wrong, expected Authorization: Bearer KEY"
                raise _Refusal(401, message, "authentication_error")
        if not is_open and self._config.requests_per_minute is not None:
            self._take_allowance((scope.get("client") or ("", 0))[0])
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._config.max_body:
            raise self._too_large()

    def _take_allowance(self, client: str) -> None:
        """A token bucket for each address: a minute's requests at once, then at their rate."""
        limit = self._config.requests_per_minute
        assert limit is not None
        now = time.monotonic()
        left, since = self._allowances.pop(client, (float(limit), now))
        left = min(float(limit), left + (now - since) * limit / 60)
        self._allowances[client] = (max(left - 1, 0.0) if left >= 1 else left, now)
        while True:  # Those seen last are at the end.
            oldest, (_, seen) = next(iter(self._allowances.items()))
            if seen >= now - FORGET_SECONDS:
                break
            del self._allowances[oldest]
        if left < 1:
            wait = str(math.ceil((1 - left) * 60 / limit))
            message = f"too many requests, {limit} a minute are the limit; wait {wait} s"
            raise _Refusal(429, message, "rate_limit_error", **{"retry-after": wait})

    async def _read(self, body: _Body, scope: Scope, receive: Receive) -> None:
        """The body of a request, which must arrive whole within its size and time."""
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refusal(400, "the body is cut", "invalid_request_error")
                    body.parts.append(message.get("body", b""))
                    body.size += len(body.parts[-1])
                    self._held += len(body.parts[-1])
                    if body.size > self._config.max_body:
                        raise self._too_large()
                    if self._held > self._config.max_held:
                        text = "too many large requests at once; try again in a second"
                        headers = {"retry-after": "1", "connection": "close"}
                        raise _Refusal(503, text, "rate_limit_error", **headers)
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            limit = f"{self._config.body_seconds:g} s"
            message = f"the body took more than {limit} to arrive"
            kind = "invalid_request_error"
            raise _Refusal(408, message, kind, connection="close") from None

    def _too_large(self) -> _Refusal:
        message = f"the body has more than {self._config.max_body_mb:g} MB, which are the limit"
        return _Refusal(413, message, "invalid_request_error", connection="close")


def _whole(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body already read, and then what the server gives."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, refusal: _Refusal) -> None:
    content = json_bytes(error_body(refusal.message, refusal.kind))
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    pairs = [(k.encode(), v.encode()) for k, v in (headers | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
