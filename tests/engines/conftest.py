"""What the tests of engines share: torch on one core, an S3 server, and engines that are baked once."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sdstream.engines.mirror import EngineMirror
from tests.engines.buckets import BUCKET, make_mirror, running_server


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """A real S3 protocol server with one bucket."""
    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    with running_server() as (host, port):
        client: Any = make_mirror(port, "none")._client
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-cz-1"})
        yield host, port
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def mirror(s3_server: tuple[str, int], request: pytest.FixtureRequest) -> Callable[..., EngineMirror]:
    """Makes mirrors under a prefix of the test's own: `mirror(part=...)`."""

    def make(**options: Any) -> EngineMirror:
        port = options.pop("port", s3_server[1])
        return make_mirror(port, request.node.name.replace("[", "-").replace("]", ""), **options)

    return make
