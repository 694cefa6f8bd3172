"""What whoever waits for a picture is told when its lane fails."""

import pytest

from sdstream.errors import InternalError, OutOfMemory, PictureNotFinite, RequestError, WorkerEndedByStream
from sdstream.model_errors import LoraUnusable, ModelDownloadFailed, ModelUnavailable
from sdstream.worker.server_end.submission import failure


@pytest.mark.parametrize(
    "kind",
    [ModelUnavailable, ModelDownloadFailed, LoraUnusable, OutOfMemory, PictureNotFinite, WorkerEndedByStream],
)
def test_a_lanes_error_comes_as_it_was(kind: type[RequestError]) -> None:
    error = failure(kind.code, "what the lane said")
    assert (type(error), error.message) == (kind, "what the lane said")


@pytest.mark.parametrize("code", [None, "SOMETHING/ELSE"])
def test_what_is_no_error_of_a_lane_is_internal(code: str | None) -> None:
    error = failure(code, None)
    assert (type(error), error.message) == (InternalError, "the lane gave the picture up")
