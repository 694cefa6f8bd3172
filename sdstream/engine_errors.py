"""The errors of compiled engines. `sdstream.errors` draws the tree."""

from sdstream.errors import SdstreamError


class EngineError(SdstreamError):
    """A compiled engine cannot be made, kept or used. A stream goes on without it, on the plain twin."""

    code = "ENGINES/ERROR"
    hint = "docs/engines.md says where engines are and how they are baked."


class EngineMissing(EngineError):
    """No engine of this key is here."""

    code = "ENGINES/MISSING"
    hint = "`python -m builder plan` says what is missing, `python -m builder bake` makes it."


class EngineBroken(EngineError):
    """An engine's files are not what its manifest says; they were put aside."""

    code = "ENGINES/BROKEN"
    hint = "It is made or fetched anew; the cache's `.quarantine` holds what was found."


class EngineMismatch(EngineError):
    """An engine is for another GPU, version or shape than what it was to be used for."""

    code = "ENGINES/MISMATCH"


class EngineBuildFailed(EngineError):
    """A back end could not make an engine of a network; the message has its own words."""

    code = "ENGINES/BUILD_FAILED"


class EngineBackendUnavailable(EngineError):
    """A back end's packages, libraries or GPU are not on this machine."""

    code = "ENGINES/BACKEND_UNAVAILABLE"


class EngineStoreUnavailable(EngineError):
    """Engines cannot be written or read where they are kept: a full disk, a read-only volume, a silent S3."""

    code = "ENGINES/STORE_UNAVAILABLE"
    hint = "Free some space, or mend the access; what was begun is taken up again by the same command."
    retryable = True


__all__ = [
    "EngineBackendUnavailable",
    "EngineBroken",
    "EngineBuildFailed",
    "EngineError",
    "EngineMismatch",
    "EngineMissing",
    "EngineStoreUnavailable",
]
