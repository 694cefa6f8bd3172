"""Profiles: which engines a server needs, as TOML."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sdstream.engines.keys import BackendName
from sdstream.engines.targets import refuse_capabilities
from sdstream.errors import ConfigurationError
from sdstream.settings import Family

SHIPPED = Path(__file__).parent / "profiles"
ComponentName = Literal[
    "unet",
    "unet-control",
    "unet-tokens",
    "unet-control-tokens",
    "unet-recall",
    "unet-control-recall",
    "unet-tokens-recall",
    "unet-control-tokens-recall",
    "encoder",
    "decoder",
    "controlnet",
    "frame",
]
Guidance = Literal["none", "self", "initialize", "full"]
ProcessorName = Literal["depth_tensorrt", "pose_tensorrt", "realesrgan_trt"]
GRID = 64
"""Pixels that sides of pictures are multiples of where they are diffused."""
SMALLEST, LARGEST = 14, 2048
FIELDS_HINT = "docs/engines.md has a table of the fields of a profile."
MOST_RECALLED = 4
"""As `cached_attention.max_frames` has it."""


class LoraSource(BaseModel):
    """A LoRA that is fused before anything is compiled: a file or a hub id, and how strongly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    scale: float = Field(default=1.0, allow_inf_nan=False)


class StreamCounts(BaseModel):
    """How many streams share one pass: the number that engines are tuned for, and the most they take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    best: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> "StreamCounts":
        if self.best > self.most:
            raise ValueError(f"best ({self.best}) is above most ({self.most})")
        return self


class Profile(BaseModel):
    """Everything that is baked together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    family: Family
    model: str
    """A diffusers directory, a file in the original layout, or the id of a model in the hub's cache."""
    taesd: str | None = None
    """The directory of the small VAE, where it lies neither in the model's nor in the hub's cache."""
    tokenizer: str | None = None
    """The directory of the tokenizer, which a model in one file has none of."""
    full_vae: bool = False
    """Bakes the model's own VAE even where there is a small one."""
    sizes: tuple[str, ...] = Field(min_length=1)
    """Such as 512x512: width, then height. Of pictures that are diffused, and of those that `processors` are given."""
    slots: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)
    """Numbers of denoising steps. The UNet takes all up to the largest; whole frames are made for each."""
    streams: StreamCounts = StreamCounts()
    components: tuple[ComponentName, ...] = ("unet", "encoder", "decoder")
    guidance: tuple[Guidance, ...] = ("self", "initialize")
    """Of whole frames; the other components serve every kind."""
    controlnets: tuple[str, ...] = ()
    adapter: str | None = None
    """An IP-Adapter: its file, or OWNER/NAME/FILE in the hub's cache. It becomes part of the `-tokens` components."""
    recalled: int = Field(default=0, ge=0, le=MOST_RECALLED)
    """Earlier pictures that the `-recall` components attend to, as `cached_attention.max_frames` of a stream says."""
    loras: tuple[LoraSource, ...] = ()
    processors: tuple[ProcessorName, ...] = ()
    """Image processors whose networks are baked."""
    targets: Mapping[BackendName, tuple[int, ...]] = Field(default_factory=dict[BackendName, tuple[int, ...]])
    """For each back end the compute capabilities to bake for; `compiled` is for the machine that bakes."""
    tiny: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    """The seed of a tiny model with random weights that is made on the spot and stands in for `model`: for tests."""

    @model_validator(mode="before")
    @classmethod
    def _of_processors_alone(cls, value: object) -> object:
        """Image processors need no model, and then nothing is made of one."""
        if not isinstance(value, Mapping):
            return value
        content = cast("Mapping[str, Any]", value)
        if not content.get("processors") or "model" in content or content.get("components"):
            return content
        return {"family": "sd-turbo", **content, "model": "", "components": ()}

    @field_validator("sizes")
    @classmethod
    def _sizes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for size in value:
            parse_size(size)
        return value

    @field_validator("slots")
    @classmethod
    def _slots(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= slots <= 50 for slots in value):
            raise ValueError("denoising steps are 1 to 50")
        return tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        for size in self.sizes if self.components else ():
            parse_size(size, GRID)
        if self.components and not self.model:
            raise ValueError(f"{', '.join(self.components)} needs `model`")
        wants = {name for name in self.components if name == "controlnet" or "-control" in name}
        if wants and not self.controlnets:
            raise ValueError(f"{', '.join(sorted(wants))} needs `controlnets`")
        styled = sorted(name for name in self.components if "-tokens" in name)
        if styled and self.adapter is None:
            raise ValueError(f"{', '.join(styled)} needs `adapter`")
        recalling = sorted(name for name in self.components if name.endswith("-recall"))
        if recalling and not self.recalled:
            raise ValueError(f"{', '.join(recalling)} needs `recalled`, how many earlier pictures")
        others = sorted(set(self.targets) - {"compiled"})
        if "frame" in self.components and others:
            raise ValueError(f"whole frames are for `compiled` only; {', '.join(others)} takes the other components")
        for backend, capabilities in self.targets.items():
            if backend != "compiled" and not capabilities:
                raise ValueError(f"targets.{backend} names no compute capability")
            refusal = refuse_capabilities(backend, capabilities)
            if refusal:
                raise ValueError(refusal)
        return self

    @property
    def pictures(self) -> tuple[tuple[int, int], ...]:
        """The sizes as (width, height)."""
        return tuple(parse_size(size) for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line changes of a profile."""

    model: str | None = None
    backend: BackendName | None = None
    capabilities: tuple[int, ...] | None = None


def find_profile(name: str, choice: Choice | None = None) -> Profile:
    """The profile of this name among the shipped ones, or in the file that `name` is the path of.

    Raises `ConfigurationError` for an unknown profile or field, naming the one that was probably meant.
    """
    file = Path(name)
    if file.suffix != ".toml":
        file = SHIPPED / f"{name}.toml"
    try:
        there = file.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        kind = "file" if file == Path(name) else "profile"
        known = shipped_profiles()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            f"there is no {kind} {name[:200]}{meant}", hint=f"Shipped are {', '.join(known)}; a path ends in .toml."
        )
    return apply_choice(read_profile(file), choice or Choice())


def read_profile(file: Path) -> Profile:
    """Raises `ConfigurationError` for what is no profile."""
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ConfigurationError(f"{file} is not TOML: it is nested too deeply", hint=FIELDS_HINT) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not TOML: {error}", hint=FIELDS_HINT) from None
    try:
        return Profile.model_validate({"name": file.stem, **content})
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(f"{file.name}: {_describe(problem)}" for problem in error.errors()),
            hint=FIELDS_HINT,
        ) from None


def apply_choice(profile: Profile, choice: Choice) -> Profile:
    """The profile as the command line wants it. Raises `ConfigurationError` for what cannot be."""
    content = profile.model_dump()
    if choice.model is not None:
        content |= {"model": choice.model, "tiny": None}
    targets = dict(profile.targets)
    if choice.backend is not None:
        default = next((capabilities for capabilities in targets.values() if capabilities), ())
        targets = {choice.backend: targets.get(choice.backend, default)}
    if choice.capabilities is not None:
        if set(targets) == {"compiled"}:
            raise ConfigurationError(
                "--sm is for TensorRT; packages of the compiled back end are for the machine that makes them",
                hint="Leave --sm away, or name another --backend.",
            )
        targets = {backend: choice.capabilities for backend in targets if backend != "compiled"} or targets
    content["targets"] = targets
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(_describe(problem) for problem in error.errors()),
            hint="Change --backend, --sm or --model, which do not go with this profile.",
        ) from None


def shipped_profiles() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def parse_size(text: str, grid: int = 1) -> tuple[int, int]:
    """Width and height of `512x512`. Raises `ValueError` for what is none, or not on the grid."""
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is not a size such as 512x512")
    sides = int(found[1]), int(found[2])
    least = max(SMALLEST, grid)
    if any(not least <= side <= LARGEST or side % grid for side in sides):
        raise ValueError(f"{text}: sides are {f'multiples of {grid} ' if grid > 1 else ''}from {least} to {LARGEST}")
    return sides


def _describe(problem: Any) -> str:
    """A problem of a profile in words: where, what, and what was probably meant."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        name, holder = str(problem["loc"][-1]), str(problem["loc"][0])
        known = list(NESTED.get(holder if len(problem["loc"]) > 1 else "", Profile).model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        if not near:
            return f"{place} is not a field of a profile" + (f"; there are {', '.join(known)}" if "." in place else "")
        return f"{place} is not a field of a profile; did you mean {near[0]}?"
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected", "")))
        near = difflib.get_close_matches(str(problem["input"]), known, n=1)
        return f"{place}: {problem['msg']}" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "tuple_type":
        return f"{place}: {problem['input']!r} is no list; write [...] around it"
    words = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {words}" if place else words


NESTED: Mapping[str, type[BaseModel]] = {"loras": LoraSource, "streams": StreamCounts}
"""Fields of a profile that have fields of their own."""

__all__ = [
    "SHIPPED",
    "Choice",
    "ComponentName",
    "LoraSource",
    "ProcessorName",
    "Profile",
    "StreamCounts",
    "apply_choice",
    "find_profile",
    "parse_size",
    "read_profile",
    "shipped_profiles",
]
