"""Daydream's own starting values for each family, whole: what its engine is warmed up with."""

from typing import Any

from sdstream.params.controlnets import CONTROLNETS, controlnet_ids
from sdstream.params.variants import VARIANTS
from sdstream.settings import Family

_ADAPTER_SCALES: dict[Family, float] = {"sdxl-turbo": 0.6, "sd15": 0.5}
_LEFT_OUT: dict[Family, frozenset[str]] = {
    # SDXL takes three ControlNets at most, and the SDKs do not know this one.
    "sdxl-turbo": frozenset({"daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0"}),
}


def daydream_preset(family: Family) -> dict[str, Any]:
    """The preset of `family` as members of `params`: steps, every ControlNet at its scale, the IP-Adapter.

    They are not the defaults of a stream, since they would load networks that nobody asked for.
    """
    left_out = _LEFT_OUT.get(family, frozenset[str]())
    preset: dict[str, Any] = {
        "t_index_list": list(VARIANTS[family].model_fields["t_index_list"].default),
        "controlnets": [
            {
                "model_id": name,
                "conditioning_scale": CONTROLNETS[name].preset_scale,
                "preprocessor": CONTROLNETS[name].preprocessor,
            }
            for name in controlnet_ids(family)
            if name not in left_out
        ],
    }
    if family in _ADAPTER_SCALES:
        preset["ip_adapter"] = {"type": "regular", "enabled": True, "scale": _ADAPTER_SCALES[family]}
    return preset


__all__ = ["daydream_preset"]
