"""Everything there is to know of every parameter, as data, for the playground and the documentation."""

from typing import Any


def parameter_catalogue() -> list[dict[str, Any]]:
    return []
