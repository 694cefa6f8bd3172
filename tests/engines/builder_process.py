"""A builder as the tests of the cache need one: writes engines of known bytes, over and over, and can be killed.

    python -m tests.engines.builder_process DIRECTORY ROUNDS [SIZE]

For each round it says `begin N`, makes the engine of round N unless it is there, and says `done N built|found`.
"""

import hashlib
import sys
import threading
from pathlib import Path

from sdstream.engines.cache import EngineCache
from tests.engines.stored import key


def content(number: int, size: int) -> bytes:
    """The bytes of the engine of a round: the same whoever makes it."""
    return hashlib.sha256(str(number).encode()).digest() * (size // 32)


def main() -> None:
    directory, rounds, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 65536
    cache = EngineCache(directory)
    waiting = threading.Event()
    for number in range(rounds):
        print(f"begin {number}", flush=True)
        wanted = key(weights=f"{number:064x}")
        lock = cache.lock(wanted)
        while cache.take(wanted.base) is None:
            if not lock.try_acquire():
                waiting.wait(0.005)
                continue
            try:
                if cache.take(wanted.base) is None:
                    with cache.draft() as draft:
                        (draft / "engine.plan").write_bytes(content(number, size))
                        cache.store(draft, wanted)
                    print(f"done {number} built{' broken' if lock.broke_one else ''}", flush=True)
            finally:
                lock.release()
        print(f"done {number} found", flush=True)


if __name__ == "__main__":
    main()
