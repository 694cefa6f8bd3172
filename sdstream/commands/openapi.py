"""`sdstream openapi`: print the OpenAPI document that a running server has at /openapi.json."""

import json
import sys
from typing import Annotated

from cyclopts import Parameter


def openapi(*, indent: Annotated[int, Parameter(help="Spaces a level; 0 for one line.")] = 2) -> int:
    """Print the OpenAPI document of the REST API as JSON. No server runs and nothing is written."""
    from sdstream.api.specification import build_document  # here, because the schemas take a while to build

    json.dump(build_document(), sys.stdout, indent=indent or None, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


__all__ = ["openapi"]
