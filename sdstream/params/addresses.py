"""The two places where a caller hands over an address: the style image and the RTMP target."""

import binascii
import hashlib
import ipaddress
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from sdstream.params.pictures import KINDS, MOST_SCANS, has_endless_scans, is_cut_off, kind_of_picture
from sdstream.params.vocabulary import MAX_URL
from sdstream.urls import split_url

MAX_STYLE_IMAGE = 10 * 1024 * 1024
"""Characters of a style image given as a data URI."""
_DATA_URI = re.compile(r"data:image/[a-zA-Z0-9.+-]{1,32};base64,", re.ASCII)
_PRIVATE_ENDINGS = frozenset({"localhost", "local", "internal", "lan", "arpa"})
"""Last labels of host names that are never of the public internet."""
_NO_ENDINGS = frozenset({"invalid", "test", "onion"})
"""Last labels of host names that nobody has there."""
PRIVATE = "must not point into a private network"


class StyleImage(str):
    """The address of a style image that has been checked: an http(s) URL or a base64 data URI.

    A type of its own, so that merging an update into a stream does not check megabytes again.
    """

    __slots__ = ("_digest",)
    _digest: str

    @property
    def digest(self) -> str:
        """SHA-256 of the address, in hexadecimal: the name under which a data URI is kept. Computed once."""
        try:
            return self._digest
        except AttributeError:
            self._digest = hashlib.sha256(self.encode()).hexdigest()
            return self._digest

    @property
    def is_data(self) -> bool:
        return self.startswith("data:")

    @property
    def short(self) -> str:
        """The address for lists and logs: a data URI without its data."""
        if not self.is_data:
            return str(self)
        head = self.partition(",")[0]
        return f"{head},... ({len(self)} characters)"


def read_style_image(value: Any) -> StyleImage | None:
    """Check a style image: `https://`, `http://`, `data:image/...;base64,` or bare base64; empty means none.

    Bare base64 becomes a data URI of the kind of picture that it starts like. Raises pydantic's custom error.
    """
    if value is None or isinstance(value, StyleImage):
        return value
    if not isinstance(value, str):
        raise _wrong("must be a text: a URL or a data URI")
    text = value.strip()
    if not text:
        return None
    if len(text) > MAX_STYLE_IMAGE:
        raise _wrong(f"has more than {MAX_STYLE_IMAGE} characters; make the picture smaller")
    if text[:5].lower() == "data:":
        text = "".join(text.split())  # some encoders break lines
        head = _DATA_URI.match(text)
        if head is None:
            raise _wrong("must be a data URI of the form data:image/png;base64,...")
        _sniff(text[head.end() :])
        return StyleImage(text)
    if re.match(r"https?://", text, re.IGNORECASE):
        _check_url(text, schemes={"http", "https"})
        if reason := why_not_public(text):
            raise _wrong(f"{reason}; send the picture as a data URI instead")
        return StyleImage(text)
    if "://" not in text[:32] and len(text) >= 64:
        text = "".join(text.split())
        return StyleImage(f"data:image/{_sniff(text)};base64,{text}")
    raise _wrong("must start with https://, http:// or data:image/")


def read_rtmp_target(value: Any) -> str:
    """Check an RTMP target: `rtmp://host/...` or `rtmps://host/...`. Raises pydantic's custom error."""
    if not isinstance(value, str):
        raise _wrong("must be a text: an rtmp:// or rtmps:// URL")
    text = value.strip()
    if not re.match(r"rtmps?://", text, re.IGNORECASE):
        raise _wrong("must start with rtmp:// or rtmps://")
    _check_url(text, schemes={"rtmp", "rtmps"})
    return text


def why_not_public(url: str) -> str | None:
    """Why the host of a URL is not of the public internet, as far as its text tells; None where it can be.

    A server that fetched from anywhere would be its callers' door into the network behind it. Whoever fetches must
    still check what the name resolves to.
    """
    host = urlsplit(url).hostname or ""
    try:
        return None if ipaddress.ip_address(host).is_global else PRIVATE
    except ValueError:
        name = host.rstrip(".").lower()
    ending = name.rpartition(".")[2]
    # `127.1` and `0x7f000001` are numbers to a resolver: a name ends in a word.
    if ending in _PRIVATE_ENDINGS or not ending[:1].isalpha():
        return PRIVATE
    if "." not in name or ending in _NO_ENDINGS:
        return f"has a host whose name does not resolve in the public internet: {name}"
    return None


def read_lora_name(value: Any) -> str:
    """Check the name of a LoRA: a file, a hub id, or an https URL into the public internet. Raises pydantic's error."""
    if not isinstance(value, str):
        raise _wrong("must be a text: a file, a hub id or an https:// URL")
    if not value or len(value) > MAX_URL:
        raise _wrong(f"must have 1 to {MAX_URL} characters")
    if "://" in value:
        _check_url(value, schemes={"https"})
        if reason := why_not_public(value):
            raise _wrong(f"{reason}; put the file below the data directory's loras")
    return value


def _check_url(text: str, schemes: set[str]) -> None:
    if len(text) > MAX_URL:
        raise _wrong(f"has more than {MAX_URL} characters")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _wrong("must be a URL of plain ASCII, other characters percent-encoded")
    if text.partition("://")[0].lower() not in schemes:
        raise _wrong(f"must start with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))}")
    if split_url(text, schemes) is None:
        raise _wrong("is not a URL with a host")


def _sniff(text: str) -> str:
    """The kind of picture that base64 `text` holds, by its first bytes."""
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one, and so is the error for text that is not ASCII
        raise _wrong("holds data that is not base64") from None
    kind = kind_of_picture(content)
    if kind is None:
        raise _wrong(f"holds no picture: its data starts like none of {', '.join(KINDS)}")
    if is_cut_off(kind, content):
        raise _wrong(f"holds a picture ({kind}) that is cut off: its end is missing; send all of it")
    if has_endless_scans(content):
        raise _wrong(f"holds a picture ({kind}) of more than {MOST_SCANS} scans; save it as an ordinary one")
    return kind


def _wrong(message: str) -> PydanticCustomError:
    # The message is a template to pydantic; it has no fields, so no brace may reach it.
    return PydanticCustomError("address", message.replace("{", "(").replace("}", ")"))  # pyright: ignore[reportArgumentType]


StyleImageField = Annotated[
    StyleImage | None,
    PlainValidator(read_style_image),
    PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_STYLE_IMAGE}, {"type": "null"}]}),
]

__all__ = [
    "MAX_STYLE_IMAGE",
    "PRIVATE",
    "StyleImage",
    "StyleImageField",
    "read_lora_name",
    "read_rtmp_target",
    "read_style_image",
    "why_not_public",
]
