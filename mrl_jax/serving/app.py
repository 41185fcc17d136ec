"""The HTTP API: embeddings, search, health, metrics, and the page.

POST /v1/embeddings   vectors of texts or recordings, as OpenAI, Infinity and vLLM have it
POST /search          the documents nearest to a question: JSON, a form, or a file alone
GET  /info            what the index and its model are
GET  /healthz         200 while work is done
GET  /metrics         Prometheus
GET  /                a page to speak into
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.index.hits import Hit
from mrl_jax.serving.batcher import QueueFullError, StoppedError
from mrl_jax.serving.config import ServeConfig
from mrl_jax.serving.engine import Engine, Work
from mrl_jax.serving.highlight import best_sentences
from mrl_jax.serving.limits import Limits
from mrl_jax.serving.metrics import CONTENT_TYPE, Metrics
from mrl_jax.serving.requests import (
    EmbeddingsRequest,
    SearchRequest,
    audio_bytes,
    check_texts,
    error_body,
    inputs_of,
    json_bytes,
    parse,
)

Handler = Callable[[Request], Awaitable[Response]]
MOST_FIELDS = 16
"""Of a form."""
DEFAULT_COUNT = 10
"""Documents that a search finds where it does not say how many."""
DECODERS = 4
"""Recordings that are decoded at once."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; media-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def create_app(engine: Engine, config: ServeConfig) -> Starlette:
    """The service over an engine, which is stopped with it by the caller."""
    api = _Api(engine, config)
    page = files("mrl_jax.serving") / "page"
    routes = [
        Route("/", _index_page(str(page / "index.html"))),
        Mount("/page", _PageFiles(directory=str(page))),
        Route("/healthz", api.health),
        Route("/metrics", api.metrics_text),
        Route("/info", api.info),
        Route("/v1/models", api.models),
        Route("/v1/embeddings", api.timed(api.embeddings), methods=["POST"]),
        Route("/search", api.timed(api.search), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _as_error, Exception: _unexpected}
    middleware = [Middleware(Limits, config=config, refused=api.metrics.refuse)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


class _Api:
    """The handlers; each gives one answer or raises, and `timed` words what was raised."""

    def __init__(self, engine: Engine, config: ServeConfig):
        self._engine, self._config = engine, config
        self._decoders = asyncio.Semaphore(DECODERS)
        self.metrics = Metrics(
            waiting=lambda: engine.waiting,
            compilations=lambda: engine.compilations,
            documents=lambda: len(engine.index),
        )

    def timed(self, handler: Handler) -> Handler:
        """The handler, with errors as answers, and its requests in the metrics."""

        async def call(request: Request) -> Response:
            begun = time.perf_counter()
            status = 500  # Where an exception leaves.
            try:
                response = await _answered(handler, request)
                status = response.status_code
            finally:
                seconds = time.perf_counter() - begun
                self.metrics.record(request.url.path, status, seconds)
            return response

        return call

    async def health(self, request: Request) -> Response:
        del request
        if self._engine.alive:
            return _json({"status": "ok", "documents": len(self._engine.index)})
        return _json({"status": "stopped"}, 503)

    async def metrics_text(self, request: Request) -> Response:
        del request
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self, request: Request) -> Response:
        del request
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "mrl_jax"}
        return _json({"object": "list", "data": [model]})

    async def info(self, request: Request) -> Response:
        del request
        engine, index = self._engine, self._engine.index
        return _json(
            {
                "documents": len(index),
                "dims": engine.dims,
                "precision": index.config.precision,
                "tasks": sorted(engine.embedder.info.prompts),
                "model": self._name,
                "max_seconds": self._config.max_seconds,
                "sample_rate": engine.embedder.model.speech.config.sample_rate,
            }
        )

    async def embeddings(self, request: Request) -> Response:
        asked: EmbeddingsRequest = parse(EmbeddingsRequest, await request.body())
        kind, inputs = inputs_of(asked)
        if not 1 <= len(inputs) <= self._config.max_inputs:
            problem = f"there are {len(inputs)} inputs, expected 1 to {self._config.max_inputs}"
            raise MrlError(problem, where="input")
        dim = asked.dimensions or self._engine.embedder.width
        work = Work(kind=kind, dim=dim, task=asked.task, prompt=asked.prompt)
        self._engine.check(work)
        values, tokens = await self._values(kind, inputs)
        vectors = await self._engine.vectors(work, values)
        data = [
            {"object": "embedding", "index": n, "embedding": _number(row, asked.encoding_format)}
            for n, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "data": data, "model": self._name, "usage": usage})

    async def search(self, request: Request) -> Response:
        asked, file = await _search_request(request)
        if (asked.text is None) + (asked.audio is None) + (file is None) != 2:
            raise MrlError("expected one of text, audio and a file", where="the body")
        if file is None and asked.audio is not None:
            file = audio_bytes(asked.audio, "audio")
        kind = "text" if file is None else "speech"
        dim = asked.dim or self._engine.index.dim
        count = asked.k or min(DEFAULT_COUNT, self._engine.most_hits)
        work = Work(kind=kind, dim=dim, count=count, task=asked.task, prompt=asked.prompt)
        self._engine.check(work)
        begun = time.perf_counter()
        query = asked.text if file is None else file
        (value,), _ = await self._values(kind, [query])
        hits = await self._engine.search(work, value)
        spans = [None] * len(hits)
        if asked.highlight:
            spans = await best_sentences(self._engine, work, value, hits)
        took = round((time.perf_counter() - begun) * 1e3, 1)
        rows = [_as_row(hit, span) for hit, span in zip(hits, spans, strict=True)]
        size = self._engine.view(dim).bytes_per_document
        return _json({"hits": rows, "dim": dim, "milliseconds": took, "bytes_per_document": size})

    async def _values(self, kind: str, inputs: list[Any]) -> tuple[list[Any], int]:
        """Inputs as they are embedded, and how many text tokens they have."""
        if kind == "text":
            check_texts(inputs, self._config.max_characters)
            count = self._engine.embedder.encoder.token_count
            return inputs, sum(await run_in_threadpool(lambda: [*map(count, inputs)]))
        one = len(inputs) == 1
        names = ["the recording" if one else f"input {n}" for n in range(len(inputs))]
        with self._engine.decoding(len(inputs)):
            # All are waited for, so that none is decoded beyond the limits after another failed.
            clips = await asyncio.gather(*map(self._clip, inputs, names), return_exceptions=True)
        for clip in clips:
            if isinstance(clip, BaseException):
                raise clip
        return list(clips), 0

    async def _clip(self, data: bytes, name: str) -> HostArray:
        async with self._decoders:
            return await run_in_threadpool(self._engine.clip, data, name)

    @property
    def _name(self) -> str:
        folder = self._engine.embedder.folder
        return "mrl_jax" if folder is None else folder.resolve().name


class _PageFiles(StaticFiles):
    """The files of the page, with its headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


async def _search_request(request: Request) -> tuple[SearchRequest, bytes | None]:
    """The fields of a search, and the file that came with them."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        try:
            async with request.form(max_files=1, max_fields=MOST_FIELDS) as form:
                fields = {name: value for name, value in form.items() if isinstance(value, str)}
                uploads = [value for value in form.values() if isinstance(value, UploadFile)]
                file = await uploads[0].read() if uploads else None
        except ValueError:  # Of a codec that its `charset` names.
            raise MrlError("the form cannot be decoded", hint="send it as UTF-8") from None
        return parse(SearchRequest, fields), file
    if kind.startswith(("audio/", "application/octet-stream")):
        return parse(SearchRequest, dict(request.query_params)), await request.body()
    return parse(SearchRequest, await request.body()), None


async def _answered(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except MrlError as error:
        return _error(400, str(error))
    except (MultiPartException, HTTPException) as error:
        detail = error.message if isinstance(error, MultiPartException) else error.detail
        return _error(400, f"the form cannot be read: {detail}")
    except QueueFullError:
        response = _error(429, "too many queries wait; try again in a second", "rate_limit_error")
        response.headers["retry-after"] = "1"
        return response
    except StoppedError:
        return _error(503, "the service ends", "server_error")
    except ClientDisconnect:
        return _error(400, "the client went away")


async def _as_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


async def _unexpected(request: Request, error: Exception) -> Response:
    del request
    message = f"the service failed ({type(error).__name__}); its log has more"
    return _error(500, message, "server_error")


def _index_page(path: str) -> Handler:
    async def page(request: Request) -> Response:
        del request
        return FileResponse(path, headers=PAGE_HEADERS)

    return page


def _number(row: HostArray, form: str) -> list[float] | str:
    if form == "float":
        return [float(x) for x in row]
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _as_row(hit: Hit, highlight: tuple[int, int] | None) -> dict[str, Any]:
    row = {"id": hit.id, "score": hit.score, "title": hit.title, "text": hit.text}
    return {**row, "span": hit.span, "highlight": highlight, "fields": dict(hit.fields)}


def _json(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def _error(status: int, message: str, kind: str = "invalid_request_error") -> Response:
    return _json(error_body(message, kind), status)
