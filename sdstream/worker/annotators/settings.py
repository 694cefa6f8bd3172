"""What a network of transformers was made with, as far as its arithmetic depends on it."""

from collections.abc import Mapping
from typing import Any, cast

LEFT_OUT = frozenset({"architectures", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version"})
"""Names, and who wrote the file: two networks that differ in these alone answer alike."""


def network_config(model: Any) -> dict[str, Any]:
    """The settings of `model`, JSON-safe, without names and paths."""
    return {"class": type(model).__name__, **_kept(model.config.to_dict())}


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _kept(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in LEFT_OUT and not name.startswith("_")
    }


__all__ = ["network_config"]
