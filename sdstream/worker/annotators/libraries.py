"""Libraries that only some processors need, and that are installed by an extra of their own."""

import importlib
from typing import Any

from sdstream.model_errors import ModelUnavailable


def optional_library(module: str, extra: str, what: str, library: str) -> Any:
    """The module, imported. Raises `ModelUnavailable`: `what` needs `library`, which `extra` installs."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        # OSError: its libraries need others of the system. RuntimeError: torchvision was built for another torch.
        raise ModelUnavailable(
            f"{what} needs {library}, which cannot be imported: {error}",
            hint=f"Install it with `pip install -c constraints.txt -e '.[{extra}]'`.",
        ) from error


__all__ = ["optional_library"]
