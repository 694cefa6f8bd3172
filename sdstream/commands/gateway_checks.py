"""The doctor's checks of a gateway: the endpoint and the directory that it depends on.

They change nothing but a key in Redis that is gone within a lease.
"""

import asyncio
import importlib
from typing import Any

from sdstream.client import RunPodClient
from sdstream.commands.checks import Check, Verdict
from sdstream.errors import ConfigurationError
from sdstream.job_errors import DirectoryUnavailable, EndpointFailed
from sdstream.serve import find_runpod_key
from sdstream.settings import Settings

ANSWER_SECONDS = 10.0


async def check_endpoint(settings: Settings) -> Check:
    """RunPod's API takes the key and knows the endpoint."""
    assert settings.endpoint is not None
    try:
        key = find_runpod_key(settings)
    except ConfigurationError as error:
        return Check("endpoint", Verdict.BAD, error.message, error.hint)
    async with RunPodClient(settings.endpoint, key, url=settings.runpod_api_url) as client:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                health = await client.health()
        except EndpointFailed as error:
            return Check("endpoint", Verdict.BAD, error.message, error.hint)
        except TimeoutError:
            finding = f"RunPod's API gave no answer within {ANSWER_SECONDS:g} s"
            return Check("endpoint", Verdict.BAD, finding, EndpointFailed.hint)
    workers = ", ".join(f"{count} {state}" for state, count in health.workers.items() if count) or "none at the moment"
    return Check("endpoint", Verdict.GOOD, f"{settings.endpoint} answers; workers: {workers}")


async def check_directory(settings: Settings) -> Check:
    """Redis, where the sessions are found, answers and takes entries."""
    if settings.redis_url is None:
        finding = "redis_url is not set: only streams made by this gateway are known, until it is restarted"
        return Check("directory", Verdict.NOTE, finding, "Give it and all workers the same SDSTREAM_REDIS_URL.")
    try:
        module: Any = importlib.import_module("sdstream.jobs.redis_directory")
    except ImportError:
        return Check(
            "directory",
            Verdict.BAD,
            "the redis package is not installed",
            "pip install -c constraints.txt -e '.[runpod]'",
        )
    redis = module.connect(settings.redis_url.get_secret_value())
    try:
        await module.RedisDirectory(redis, settings.endpoint or "", settings.session_lease).check()
    except DirectoryUnavailable as error:
        return Check("directory", Verdict.BAD, error.message, "Check SDSTREAM_REDIS_URL and that server.")
    finally:
        await redis.aclose()
    return Check("directory", Verdict.GOOD, "Redis answers and takes entries")


__all__ = ["check_directory", "check_endpoint"]
