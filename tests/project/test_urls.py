"""One rule for all URLs that people give."""

import pytest

from sdstream.urls import split_bucket, split_url


@pytest.mark.parametrize("url", ["http://h", "https://h:1/x?y#z", "http://[::1]:8080", "HTTP://user:key@h"])
def test_a_url_with_a_host_is_one(url: str) -> None:
    assert split_url(url, ("http", "https")) is not None


@pytest.mark.parametrize(
    "url", ["", "h", "h:1", "//h", "ftp://h", "http://", "http:///x", "http://[::1", "http://h:0", "http://h:99999"]
)
def test_what_has_no_host_another_scheme_or_no_such_port_is_none(url: str) -> None:
    assert split_url(url, ("http", "https")) is None


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://my-b.1_x/a/b/", ("my-b.1_x", "a/b")),
        ("s3://b//a", ("b", "a")),
    ],
)
def test_a_bucket_has_a_name_and_a_prefix(url: str, parts: tuple[str, str]) -> None:
    assert split_bucket(url) == parts
