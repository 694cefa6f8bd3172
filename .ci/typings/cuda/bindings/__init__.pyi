# Compiled modules without types, which torch for CUDA brings; see ../../triton.
from typing import Any

driver: Any
nvrtc: Any
