"""Style images: which addresses are taken, and that a picture in the address is one."""

import base64
import io
from typing import Any

import numpy
import pytest
from PIL import Image
from pydantic_core import PydanticCustomError

from sdstream.params import StyleImage, wire_params
from sdstream.params.addresses import MAX_STYLE_IMAGE, read_style_image
from sdstream.params.pictures import MOST_SCANS, is_cut_off
from tests.params.requests import DREAMSHAPER, SDXL_TURBO, created, refusal
from tests.support.endless import jpeg_of_scans

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 60 + b"IEND"
JPEG = b"\xff\xd8\xff\xe0" + b"\x00" * 60 + b"\xff\xda\xff\xd9"
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + b"\x00" * 60


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/x.png",
        "http://example.org:8000/x?y=1#z",
        "HTTPS://example.org/x.png",
        _uri(PNG),
        _uri(JPEG, "jpeg"),
        _uri(WEBP, "webp"),
    ],
)
@pytest.mark.parametrize("model_id", [SDXL_TURBO, DREAMSHAPER])
def test_good_addresses_are_kept_as_they_are(model_id: str, address: str) -> None:
    assert wire_params(created(model_id, ip_adapter_style_image_url=address))["ip_adapter_style_image_url"] == address


@pytest.mark.parametrize(
    "address",
    [
        "ftp://example.org/x.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///x.png",
        "https://exa mple.org/x",
        "https://[::1",
        "https://example.org/" + "x" * 2048,
        "http://127.0.0.1:9/x.png",
        "http://[::1]/x.png",
        "http://10.1.2.3/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://127.1/x.png",
        "http://0x7f000001/x.png",
        "http://1.2.3.0x4/x.png",
        "http://localhost:8080/x.png",
        "http://LOCALHOST./x.png",
        "http://router.local/x.png",
        "http://no-such-host.invalid/x.png",
        "http://.../x.png",
        "https://example.org/\u00e9.png",
        "example.org/x.png",
        "data:image/png;base64,",
        "data:image/png;base64,not base64!",
        "data:image/png;base64,iVBORw0KGgo",
        "data:image/png,abc",
        "data:text/html;base64,PGI+",
        _uri(b"just some text, no picture at all"),
        base64.b64encode(b"no picture " * 20).decode(),
        5,
        ["https://example.org/x.png"],
    ],
)
def test_bad_addresses_are_refused(address: object) -> None:
    details = refusal({"params": {"model_id": SDXL_TURBO, "ip_adapter_style_image_url": address}})
    assert set(details) == {"params.ip_adapter_style_image_url"}


@pytest.mark.parametrize("address", ["http://example.org/mine.safetensors", "file:///etc/passwd", "s3://bucket/mine"])
def test_a_lora_that_is_not_fetched_by_https_is_told_so(address: str) -> None:
    details = refusal({"params": {"model_id": SDXL_TURBO, "lora_dict": {address: 1.0}}})
    assert [detail["problem"] for detail in details.values()] == ["must start with https://"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "avif", "gif"])
def test_a_picture_that_is_whole_is_taken_and_one_that_is_cut_off_is_refused_by_name(kind: str) -> None:
    packed = io.BytesIO()
    noise = numpy.random.default_rng(1).integers(0, 255, (40, 40, 3), numpy.uint8)
    Image.fromarray(noise).save(packed, kind)
    content = packed.getvalue()
    assert read_style_image(_uri(content, kind)) == _uri(content, kind)
    for length in (len(content) - 9, len(content) // 2, 60):
        if kind == "gif":  # says nothing of its length: it is looked at when it is used
            continue
        body = {"params": {"model_id": SDXL_TURBO, "ip_adapter_style_image_url": _uri(content[:length], kind)}}
        assert "cut off" in str(refusal(body)["params.ip_adapter_style_image_url"]["problem"]), length


def test_a_photograph_with_a_small_picture_inside_is_cut_off_where_its_own_end_is_missing() -> None:
    inside, scan = JPEG, b"\xff\xda" + b"\x01" * 40
    assert not is_cut_off("jpeg", b"\xff\xd8\xff\xe1" + inside + scan + b"\xff\xd9")
    assert is_cut_off("jpeg", b"\xff\xd8\xff\xe1" + inside + scan)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://no-such-host.invalid/x.png", "name does not resolve in the public internet: no-such-host.invalid"),
        ("http://nowhere/x.png", "name does not resolve in the public internet: nowhere"),
        ("http://router.local/x.png", "private network"),
        ("http://127.1/x.png", "private network"),
        ("http://10.1.2.3/x.png", "private network"),
    ],
)
def test_a_host_that_nobody_finds_is_told_from_one_in_a_private_network(address: str, why: str) -> None:
    body = {"params": {"model_id": SDXL_TURBO, "ip_adapter_style_image_url": address}}
    assert why in str(refusal(body)["params.ip_adapter_style_image_url"]["problem"])


def test_bare_base64_becomes_a_data_uri_of_its_kind() -> None:
    assert read_style_image(base64.b64encode(JPEG).decode()) == _uri(JPEG, "jpeg")


def test_line_breaks_in_base64_are_taken_out() -> None:
    assert read_style_image("data:image/png;base64," + base64.encodebytes(PNG).decode()) == _uri(PNG)


def test_a_picture_of_ten_megabytes_is_accepted_and_one_above_refused() -> None:
    def picture(characters: int) -> str:
        head = "data:image/png;base64,iVBORw0KGgoA"
        end = base64.b64encode(b"IEND").decode()
        return head + "A" * ((characters - len(head) - len(end)) // 4 * 4) + end

    fits: Any = read_style_image(picture(MAX_STYLE_IMAGE))
    assert len(fits) > 10_000_000
    body = {"params": {"model_id": SDXL_TURBO, "ip_adapter_style_image_url": picture(MAX_STYLE_IMAGE + 100)}}
    assert "more than 10485760 characters" in str(refusal(body)["params.ip_adapter_style_image_url"]["problem"])


def test_a_picture_of_endless_scans_is_refused() -> None:
    """It is whole, and would keep whoever decodes it busy for half an hour."""
    assert read_style_image(_uri(jpeg_of_scans(MOST_SCANS), "jpeg"))
    with pytest.raises(PydanticCustomError, match="more than 256 scans"):
        read_style_image(_uri(jpeg_of_scans(MOST_SCANS + 1), "jpeg"))


def test_a_checked_address_is_not_checked_again() -> None:
    checked = StyleImage("anything at all")
    assert read_style_image(checked) is checked
