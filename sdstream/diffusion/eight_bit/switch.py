"""Whether networks that are placed from now on multiply in eight bits where that wins. Of this process."""

from typing import Literal

EightBit = Literal["off", "linear", "all"]


class _Switch:
    wanted: EightBit = "off"


def eight_bit_wanted() -> EightBit:
    """What the operator asked for: nothing, linear layers, or convolutions behind a norm, too."""
    return _Switch.wanted


def use_eight_bit(wanted: EightBit) -> None:
    """For networks that are placed from now on."""
    _Switch.wanted = wanted


__all__ = ["EightBit", "eight_bit_wanted", "use_eight_bit"]
