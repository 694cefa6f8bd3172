"""Looks at the style images that streams point to, so that a bad one is reported at once and not when it is needed."""

import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import structlog
from PIL import Image

from sdstream.fetching import FetchProblem, PublicFetcher
from sdstream.params import StreamParams, StyleImage
from sdstream.params.pictures import MOST_SCANS, has_endless_scans

STYLE_IMAGE = "ip_adapter_style_image_url"
"""The parameter that names a style image."""

MAX_PIXELS = 32_000_000
LARGEST_SIDE = 1024
"""Pixels of the longer side that the worker is given: adapters look at a few hundred."""
CHECKS_AT_ONCE = 4
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF")
"""What is opened, as Pillow calls it; the same that `params` lets pass in data URIs. Pillow knows many more, and some
of its readers start other programs."""

log = structlog.get_logger(__name__)


class StyleImageChecker:
    """Checks one style image per stream behind the answers; a newer one replaces the check of the one before."""

    def __init__(self, fetcher: PublicFetcher) -> None:
        self._fetcher = fetcher
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(CHECKS_AT_ONCE)
        # Threads of their own: decoding cannot be ended, and each update begins anew, which must not keep out what else
        # is done on threads.
        self._decoding = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="style image")

    @property
    def pending(self) -> int:
        """Checks under way."""
        return len(self._checks)

    def check(
        self, stream_id: str, image: StyleImage, report: Callable[[str], None], found: Callable[[StyleImage], None]
    ) -> None:
        """Start looking at `image`; `report` is told what is wrong with it, `found` the picture behind an address."""
        self.forget(stream_id)
        task = asyncio.create_task(self._check(stream_id, image, report, found), name=f"style image of {stream_id}")
        self._checks[stream_id] = task
        task.add_done_callback(lambda done: self._drop(stream_id, done))

    def forget(self, stream_id: str) -> None:
        """The stream has another image now, or is gone."""
        task = self._checks.pop(stream_id, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all checks."""
        tasks = list(self._checks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fetcher.close()
        self._decoding.shutdown(wait=False, cancel_futures=True)

    async def _check(
        self, stream_id: str, image: StyleImage, report: Callable[[str], None], found: Callable[[StyleImage], None]
    ) -> None:
        try:
            async with self._places:
                loop = asyncio.get_running_loop()
                if image.is_data:
                    await loop.run_in_executor(self._decoding, decode_data, str(image))
                else:
                    content = await self._fetcher.fetch(str(image))
                    found(await loop.run_in_executor(self._decoding, _as_data, content))
        except FetchProblem as problem:
            report(f"The style image {problem}.")
        except Exception as error:  # supervisor of a check: its end must be told, whatever it was
            log.warning("style image check failed", stream_id=stream_id, exc_info=error)
            report("The style image cannot be read.")

    def _drop(self, stream_id: str, task: asyncio.Task[None]) -> None:
        if self._checks.get(stream_id) is task:
            del self._checks[stream_id]


class StylePicture:
    """What the worker is given for a stream's style image, as it has no way to the network: the picture itself.

    Of an address that is not fetched yet, or that leads to none, it is the picture before.
    """

    def __init__(self) -> None:
        self._address: StyleImage | None = None
        self._picture: StyleImage | None = None

    def has(self, address: StyleImage) -> bool:
        """Whether the picture at `address` was fetched and is here. One given as data is looked at each time."""
        return not address.is_data and self._picture is not None and self._address == address

    def found(self, address: StyleImage, picture: StyleImage) -> None:
        """`picture`, a data URI, is what is at `address`."""
        self._address, self._picture = address, picture

    def given(self, params: StreamParams) -> StreamParams:
        """`params` with the picture in the place of its address."""
        image = style_image_of(params)
        if image is None:
            return params
        if image.is_data:
            self.found(image, image)
            return params
        return params.model_copy(update={STYLE_IMAGE: self._picture})


def _as_data(content: bytes) -> StyleImage:
    """The picture in `content`, no larger than it is looked at, as a data URI. Raises `FetchProblem`."""
    image = decode(content).convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return StyleImage(f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}")


def decode_data(uri: str) -> Image.Image:
    """The picture in a base64 data URI. Raises `FetchProblem`."""
    try:
        content = base64.b64decode(uri.partition(",")[2], validate=True)
    except ValueError:
        raise FetchProblem("is not base64") from None
    return decode(content)


def decode(content: bytes) -> Image.Image:
    """The picture in `content`. Raises `FetchProblem` when there is none or it is too large."""
    if has_endless_scans(content):
        raise FetchProblem(f"is a JPEG of more than {MOST_SCANS} scans")
    try:
        image = Image.open(io.BytesIO(content), formats=_readable_formats())
        if image.width * image.height > MAX_PIXELS:
            raise FetchProblem(f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        image.load()
    # Pillow's decoders raise nearly anything on broken files; these are the roots that its documentation names.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FetchProblem("is not a picture that can be read") from error
    return image


@cache
def _readable_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # a Pillow may be built without one, and then asks in vain


def style_image_of(params: StreamParams) -> StyleImage | None:
    """The style image of the variants that have one."""
    return getattr(params, STYLE_IMAGE, None)


__all__ = [
    "CHECKS_AT_ONCE",
    "FORMATS",
    "MAX_PIXELS",
    "STYLE_IMAGE",
    "StyleImageChecker",
    "StylePicture",
    "decode",
    "decode_data",
    "style_image_of",
]
