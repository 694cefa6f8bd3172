"""How this project's attention is cut into blocks: plain arithmetic, with no GPU in it."""

import re
from dataclasses import dataclass

NAME = r"(\d+)x(\d+)w(\d+)s(\d+)"


@dataclass(frozen=True, slots=True)
class AttentionTiling:
    """Blocks of `rows` queries that look at `columns` keys in a step, both powers of two; `stages` steps are on their
    way at a time, and `warps` share a block."""

    rows: int
    columns: int
    warps: int
    stages: int

    @property
    def name(self) -> str:
        """Such as `64x128w4s3`, for `attention_tiling_named`."""
        return f"{self.rows}x{self.columns}w{self.warps}s{self.stages}"


ATTENTION_TILINGS = (
    AttentionTiling(128, 64, 8, 3),
    AttentionTiling(64, 128, 4, 2),
    AttentionTiling(64, 64, 4, 3),
    AttentionTiling(64, 32, 4, 3),
)
"""The ways that there are: each is the fastest for some shape of published models on an H200."""


def attention_tiling_named(name: str) -> AttentionTiling:
    """The tiling of a name. Raises `ValueError` when it is none."""
    found = re.fullmatch(NAME, name)
    if found is None:
        raise ValueError(f"{name!r} is no tiling of attention")
    return AttentionTiling(*(int(size) for size in found.groups()))


__all__ = ["ATTENTION_TILINGS", "AttentionTiling", "attention_tiling_named"]
