"""The S3 server of the engines' tests."""

from tests.engines.conftest import mirror, s3_server

__all__ = ["mirror", "s3_server"]
