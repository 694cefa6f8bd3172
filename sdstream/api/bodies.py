"""Reading request bodies: bounded, UTF-8, and JSON in the strict sense, with one exception: line breaks and tabs may
stand in strings unescaped, because Daydream's OBS plugin escapes nothing when it creates a stream.

Content types of JSON bodies are not looked at: Daydream's clients always send JSON, and `curl -d` says form data.
"""

import asyncio
import json
from typing import Any, NoReturn, cast

from starlette.requests import Request

from sdstream.errors import BadRequest, BodyTooLarge, InvalidSdp, UnsupportedMedia

SDP_TYPE = "application/sdp"
FRAGMENT_TYPE = "application/trickle-ice-sdpfrag"
LARGE_BODY = 256 * 1024
"""Bytes; longer ones are parsed off the event loop, on which every stream's packets travel."""
MOST_COMMAS = 200_000
"""Of a JSON body, those in texts too: what is no more than a request can hold has far fewer, and to parse millions of
values takes longer, even on a thread, than the other threads can wait for the interpreter."""
LONGEST_SDP = 256 * 1024
"""Bytes; a browser's offer with every codec is about 10 kB."""


async def read_bytes(request: Request, limit: int) -> bytes:
    """The whole body. Raises `BodyTooLarge` past `limit` bytes, whether or not the sender announced its length."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise BodyTooLarge(f"the body has {announced[:20]} bytes, the limit is {limit}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body has more than the limit of {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object. Raises `BadRequest` for anything else."""
    body = await read_bytes(request, limit)
    if len(body) > LARGE_BODY:
        return await asyncio.to_thread(parse_object, body)
    return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; refuses NaN, infinities, duplicate members, lone surrogates and bottomless nesting."""
    if not body.strip():
        raise BadRequest("the body is empty; a JSON object is expected")
    if body.count(b",") > MOST_COMMAS:
        raise BadRequest("the JSON body holds more values than any request needs")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})") from None
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            _refuse_surrogates(value)
    except RecursionError:
        raise BadRequest("the JSON body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadRequest("the JSON body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, not {_kind(value)}")
    return cast("dict[str, Any]", value)


async def read_sdp(request: Request, content_type: str = SDP_TYPE) -> str:
    """The body as SDP text.

    Raises `UnsupportedMedia` unless `Content-Type` is `content_type` (parameters are fine), `InvalidSdp` for an empty
    body or one that is not text.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != content_type:
        raise UnsupportedMedia(f"Content-Type must be {content_type}, not {given[:100] or 'absent'}")
    body = await read_bytes(request, LONGEST_SDP)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidSdp("the SDP is not UTF-8 text") from None
    if not text.strip():
        raise InvalidSdp("the body is empty; an SDP offer is expected")
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"the JSON body holds {name}, which JSON does not have")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadRequest(f"the JSON body holds {text[:40]}, which is too large")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # one pass: a body may have a million
        raise BadRequest(
            f"the JSON body holds the member {twice[:100]!r} twice",
            details=[{"field": twice[:100], "problem": "given twice", "suggestion": None}],
        )
    return members


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite, strict=False
)


def _refuse_surrogates(value: Any) -> None:
    """Half a surrogate pair is no character: it can be neither stored nor sent as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest("the JSON body holds half of a surrogate pair") from None
    elif isinstance(value, dict):
        for name, member in cast("dict[str, Any]", value).items():
            _refuse_surrogates(name)
            _refuse_surrogates(member)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _refuse_surrogates(item)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names[type(value)]


__all__ = [
    "FRAGMENT_TYPE",
    "LONGEST_SDP",
    "MOST_COMMAS",
    "SDP_TYPE",
    "parse_object",
    "read_bytes",
    "read_object",
    "read_sdp",
]
