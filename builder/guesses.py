"""What baking a profile may take where it cannot be looked at: its model or a back end's packages are not here."""

from dataclasses import dataclass

from builder.estimates import GIGABYTE, RATES, Basis, Estimate
from builder.profiles import Profile
from sdstream.engines.cache import EngineCache
from sdstream.engines.keys import BackendName
from sdstream.platform.memory import free_memory
from sdstream.settings import Family

UNET: dict[Family, float] = {"sd-turbo": 1.73e9, "sd15": 1.72e9, "sdxl-turbo": 5.14e9}
"""Bytes of the weights of the published models in half precision, from their numbers of parameters."""
CONTROLNET: dict[Family, float] = {"sd-turbo": 0.73e9, "sd15": 0.72e9, "sdxl-turbo": 2.5e9}
VAE_PART = {True: 0.1e9, False: 2.5e6}
"""Half of a VAE: of the model's own, and of the small one."""
PROCESSORS = {"depth_tensorrt": 0.05e9, "pose_tensorrt": 0.22e9, "realesrgan_trt": 0.034e9}


@dataclass(frozen=True, slots=True)
class Guess:
    """What a back end's engines of a profile may take; `count` of them are made where none is there."""

    profile: str
    backend: BackendName
    count: int
    estimate: Estimate


def guess(profile: Profile, backend: BackendName, cache: EngineCache) -> Guess:
    """From the tables alone: no file is looked at, and neither is what is baked already."""
    engines = _weights(profile)
    weights = [weight for _, weight in engines]
    rate = RATES[backend]
    sizes = [weight / GIGABYTE for weight in weights]
    memory = max((rate.memory + rate.memory_per_gigabyte * size for size in sizes), default=0.0)
    disk = sum(rate.disk + rate.disk_per_gigabyte * size for size in sizes)
    if backend != "compiled":  # the graph of one, and the weights of all
        disk += max(weights, default=0.0) + sum(dict(engines).values())
    return Guess(
        profile.name,
        backend,
        len(weights),
        Estimate(
            seconds=sum(rate.seconds + rate.seconds_per_gigabyte * size for size in sizes),
            memory=int(memory),
            least_memory=int(memory - rate.mapped_per_gigabyte * max(sizes, default=0.0)),
            disk=int(disk),
            free_memory=free_memory(),
            free_disk=cache.free_bytes(),
            bases=(Basis.GUESSED,) * len(weights),
        ),
    )


def guesses(profile: Profile, backend: BackendName | None, cache: EngineCache) -> list[Guess]:
    """Of each back end that the profile names, or of the one that is asked for."""
    return [guess(profile, name, cache) for name in profile.targets if backend in (None, name)]


def _weights(profile: Profile) -> list[tuple[str, float]]:
    """The network of each engine, and bytes of its weights. A tiny model's are nothing to speak of."""
    family, made = profile.family, list[tuple[str, float]]()
    for component in profile.components:
        if component in ("encoder", "decoder"):
            networks = {component: VAE_PART[profile.full_vae]}
        elif component == "controlnet":
            networks = dict.fromkeys(profile.controlnets, CONTROLNET[family])
        elif component == "frame":
            one = UNET[family] + 2 * VAE_PART[profile.full_vae]
            networks = {f"frame {slots} {kind}": one for slots in profile.slots for kind in profile.guidance}
        else:
            networks = {"unet": UNET[family]}
        weights = [(name, 0.0 if profile.tiny is not None else one) for name, one in networks.items()]
        made += weights * len(profile.sizes)
    return made + [(name, PROCESSORS[name]) for name in profile.processors for _ in profile.sizes]


__all__ = ["Guess", "guess", "guesses"]
