"""What requests ask for, in the forms that clients of other services send.

Embeddings are asked for as OpenAI's API has it (`input`, `dimensions`, `encoding_format`); audio
as Infinity has it (`modality: "audio"`, a data URI) or as vLLM has it (`messages` with
`input_audio`). `task` and `prompt` are this project's own.
"""

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.text import check_text

MODEL_NAME = "mrl_jax"
MOST_VALUES = 20_000
"""Of a body of JSON, however nested. Each that is wrong costs pydantic a microsecond and more, and
a kilobyte."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputAudio(BaseModel):
    """A recording inside a message: base64 of a file."""

    model_config = ConfigDict(strict=True)  # `format` is read from the file itself.
    data: str


class AudioUrl(_Strict):
    """A recording by address, of which only data URIs are read."""

    url: str


class Part(_Strict):
    """A part of a message."""

    type: Literal["text", "input_audio", "audio_url"]
    text: str | None = None
    input_audio: InputAudio | None = None
    audio_url: AudioUrl | None = None


class Message(BaseModel):
    """A message of a chat; its role is not read."""

    model_config = ConfigDict(strict=True)
    content: str | list[Part]


class EmbeddingsRequest(BaseModel):
    """The body of POST /v1/embeddings. Fields of other services that change nothing are ignored."""

    model_config = ConfigDict(strict=True)
    input: str | list[str] | None = None
    messages: list[Message] | None = None
    modality: Literal["text", "audio"] = "text"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    model: str = MODEL_NAME
    task: str | None = None
    prompt: str | None = None


class SearchRequest(_Strict):
    """The body of POST /search as JSON; the fields of a form have the same names."""

    text: str | None = None
    audio: str | None = None
    k: Annotated[int, Field(ge=1)] | None = None
    dim: Annotated[int, Field(ge=1)] | None = None
    task: str | None = None
    prompt: str | None = None
    highlight: bool = False


def parse(model: type[Any], body: bytes | dict[str, Any]) -> Any:
    """A body as one of the classes above.

    Args:
        model: that class.
        body: JSON, or the fields of a form, whose values are text.

    Raises:
        MrlError: no JSON; too many values; a field is missing, unknown, or of another type.
    """
    try:
        if isinstance(body, dict):
            return model.model_validate(body, strict=False)
        _check_size(body)
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MrlError(first_line(ValueError(first["msg"])), where=place) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise MrlError(f"is no JSON: {first_line(error)}", where="the body") from None


def _check_size(body: bytes) -> None:
    """Refuse JSON of many values; what is no JSON passes, for a better message.

    Raises:
        MrlError: too many values.
    """
    try:
        waiting = [from_json(body)]
    except ValueError:
        return
    count = 0
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        count += len(value)
        if count > MOST_VALUES:
            raise MrlError(f"has more than {MOST_VALUES:,} values", where="the body")
        waiting += value.values() if isinstance(value, dict) else value


def inputs_of(request: EmbeddingsRequest) -> tuple[Literal["speech", "text"], list[str | bytes]]:
    """The texts, or the files of recordings, that a request wants embedded.

    Raises:
        MrlError: none, or both `input` and `messages`; a part that is not read; an address.
    """
    if (request.input is None) == (request.messages is None):
        raise MrlError("expected one of `input` and `messages`", where="the body")
    if request.messages is not None:
        return _of_messages(request.messages)
    assert request.input is not None
    inputs = [request.input] if isinstance(request.input, str) else request.input
    if request.modality == "audio":
        return "speech", [audio_bytes(one, f"input {n}") for n, one in enumerate(inputs)]
    return "text", list(inputs)


def audio_bytes(text: str, name: str) -> bytes:
    """A file in base64, with or without `data:audio/wav;base64,` before it.

    Raises:
        MrlError: an address, which this service never reads; no base64.
    """
    hint = "send the recording itself: data:audio/wav;base64,..."
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise MrlError("is a data URI without ;base64,", where=name, hint=hint)
    elif ":" in text[:12]:
        raise MrlError("is an address, and addresses are not read", where=name, hint=hint)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MrlError("is no base64", where=name, hint=hint) from None


def check_texts(texts: list[str], most: int) -> None:
    """Refuse texts that are empty, too long, or cannot be encoded.

    Raises:
        MrlError: naming the first.
    """
    for number, text in enumerate(texts):
        where = f"input {number}"
        if not text.strip():
            raise MrlError("the text is empty", where=where)
        check_length(text, most, name="the text", where=where)
        check_text(text, "the text", where=where)


def check_length(text: str, most: int, *, name: str, where: str | None = None) -> None:
    """Refuse a text of more characters than `most`.

    Raises:
        MrlError: it has more.
    """
    if len(text) > most:
        problem = f"{name} has {len(text)} characters, and {most} are the limit"
        raise MrlError(problem, where=where, hint="cut it into parts")


def _of_messages(
    messages: list[Message],
) -> tuple[Literal["speech", "text"], list[str | bytes]]:
    """The one text or recording of a chat."""
    parts = []
    for message in messages:
        content = message.content
        parts += [Part(type="text", text=content)] if isinstance(content, str) else content
    if len(parts) != 1:
        problem = f"the messages have {len(parts)} parts, expected one text or recording"
        raise MrlError(problem, where="messages", hint="put a prompt into the field `prompt`")
    part, value = parts[0], getattr(parts[0], parts[0].type)
    if value is None:
        raise MrlError(f"has no {part.type}", where="messages")
    if isinstance(value, str):
        return "text", [value]
    data = value.data if isinstance(value, InputAudio) else value.url
    return "speech", [audio_bytes(data, part.type)]


def error_body(message: str, kind: str) -> dict[str, Any]:
    """A refusal as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
