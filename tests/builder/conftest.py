"""The S3 server of the engines' tests, and a hub's files."""

from pathlib import Path

import pytest
import torch

from tests.builder.upstream import write_upstream
from tests.engines.conftest import mirror, s3_server


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub has for the shipped profile with ControlNets, in tiny. Do not change it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("upstream")
    write_upstream(folder)
    return folder


__all__ = ["mirror", "s3_server", "upstream"]
