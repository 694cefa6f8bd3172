"""Memory is given back after sessions end: once for many, and not while nobody leaves."""

import asyncio
import threading

from sdstream.media.embedded.trimming import MemoryTrimmer
from sdstream.platform import LINUX
from sdstream.platform.memory import release_free_memory
from tests.support.waiting import eventually


async def test_many_goings_are_one_trim_on_another_thread() -> None:
    threads: list[int] = []
    trimmer = MemoryTrimmer(lambda: threads.append(threading.get_ident()), seconds=0.05)
    for _ in range(10):
        trimmer.request()
    await eventually(lambda: bool(threads))
    trimmer.request()
    await eventually(lambda: len(threads) == 2)
    assert threading.get_ident() not in threads
    await trimmer.close()


async def test_nothing_is_trimmed_once_closed() -> None:
    trims: list[None] = []
    trimmer = MemoryTrimmer(lambda: trims.append(None), seconds=0.0)
    trimmer.request()
    await trimmer.close()
    trimmer.request()
    for _ in range(5):
        await asyncio.sleep(0)
    assert trims == []


def test_the_system_takes_memory_or_nothing_happens() -> None:
    assert isinstance(release_free_memory(), bool)
    if not LINUX:
        assert not release_free_memory()
