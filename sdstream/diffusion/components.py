"""The parts of a model that engines are made of: the UNet, ControlNets, the small VAE's halves, the whole frame.

Each is a module over tensors alone, beside the exact ranges of its inputs. What can be switched on while a stream runs
(ControlNet residuals, image tokens) is an input of the variants that have it in their name, so that no switch waits for
another engine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdstream.diffusion.adapters import ImageAdapter
from sdstream.diffusion.attention import bank_length, self_layers
from sdstream.diffusion.conditioned import ConditionedNetworks
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.switch import plain_blocks
from sdstream.diffusion.networks import EagerNetworks, Networks
from sdstream.diffusion.prepared_control import plain_control_answer, takes_sizes
from sdstream.diffusion.question import Question, Subject, question_of
from sdstream.diffusion.state import Knobs, Memory, unprepared
from sdstream.engines.component import Component, InputList, RowRange, dtype_name
from sdstream.engines.keys import LoraIdentity
from sdstream.engines.weights import combined, digest_of_tensors, digest_of_weights

if TYPE_CHECKING:
    from sdstream.diffusion.loading.models import Model  # which imports diffusers, and nothing here needs it

CHANNELS = 4
TIME_IDS = 6


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a component's inputs depend on besides the model: the picture's size and how many rows there can be."""

    width: int
    height: int
    latent_scale: int
    rows: RowRange
    """Of the UNet and of ControlNets: streams times slots, with those of the negative prompt."""
    streams: RowRange
    """Of the VAE and of the whole frame."""

    @property
    def latent(self) -> tuple[int, int, int]:
        return CHANNELS, self.height // self.latent_scale, self.width // self.latent_scale


MOST_ROWS = 63
"""From 64 rows on the upsampling of diffusers goes another way, and an export has one way for all numbers of rows."""


def row_ranges(streams: RowRange, slots: int) -> RowRange:
    """The rows of the UNet for as many streams of up to `slots` steps, whatever the kind of guidance, as far as one
    engine can take them."""
    return RowRange(1, min(streams.best * slots, MOST_ROWS), min(streams.most * slots * 2, MOST_ROWS))


class UnetModule(nn.Module):
    """`Networks.predict`, or `recall`, over a list of tensors: those of a question in their order, then the bank of
    earlier pictures and which rows are fresh, where the variant has them."""

    def __init__(
        self, networks: Networks, *, controls: int = 0, has_tokens: bool = False, recalls: bool = False
    ) -> None:
        super().__init__()
        self.networks = networks
        self.controls = controls
        self.has_tokens = has_tokens
        self.recalls = recalls

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        networks = self.networks
        question, rest = question_of(tensors, is_xl=networks.is_xl, controls=self.controls, has_tokens=self.has_tokens)
        if self.recalls:
            bank, fresh = rest
            return networks.recall(question, bank, fresh)
        return networks.predict(question)


class EncoderModule(nn.Module):
    """`Networks.encode`."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.networks.encode(image)


class DecoderModule(nn.Module):
    """`Networks.decode`."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.networks.decode(latent)


class ControlNetModule(nn.Module):
    """A ControlNet of diffusers over latents, timesteps, texts, image, scale, then pooled and time_ids where it has an
    embedding of them, as some of SDXL's have.

    `scale` [rows] multiplies what it gives, so that turning it needs nothing else, and 0 is off.
    """

    def __init__(self, controlnet: nn.Module) -> None:
        super().__init__()
        self.controlnet = controlnet
        self.is_xl = takes_sizes(controlnet)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        latents, timesteps, texts, image, scale = tensors[:5]
        question = Question(latents, Subject(timesteps, texts, *tensors[5:]))
        down, mid = plain_control_answer(self.controlnet, question, image, is_xl=self.is_xl)
        factor = scale.view(-1, 1, 1, 1)
        return (*(residual * factor for residual in down), mid * factor)


class FrameModule(nn.Module):
    """A whole `Frame` over a list of tensors: the image, the knobs and the memory in their order.

    It answers with the image, the latent and the new memory. Tensors of no elements are not taken, since not every back
    end knows such: they are made inside.
    """

    def __init__(self, frame: Frame, like: tuple[Knobs, Memory]) -> None:
        super().__init__()
        self.frame = frame
        self._empty = tuple(tensor.shape[1:] if tensor.numel() == 0 else None for block in like for tensor in block)
        self._dtypes = tuple(tensor.dtype for block in like for tensor in block)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image, given = tensors[0], list(tensors[1:])
        whole = [
            given.pop(0) if shape is None else image.new_zeros((image.shape[0], *shape), dtype=dtype)
            for shape, dtype in zip(self._empty, self._dtypes, strict=True)
        ]
        knobs, memory = Knobs(*whole[: len(Knobs._fields)]), Memory(*whole[len(Knobs._fields) :])
        result = self.frame(image, knobs, memory)
        kept = [tensor for tensor in result.memory if 0 not in tuple(tensor.shape[1:])]
        return (result.image, result.latent, *kept)


def unet_name(*, control: bool, tokens: bool, recalls: bool = False) -> str:
    """The name of the UNet's component that takes these."""
    return "unet" + "-control" * control + "-tokens" * tokens + "-recall" * recalls


def digest_of_layers(adapter: ImageAdapter) -> str:
    """Of the keys and values of an IP-Adapter, in the order of the layers, and of its changes to the UNet."""
    return digest_of_tensors(
        {
            f"{index}.{name}.{key}": tensor
            for index, layer in enumerate(adapter.layers)
            for name, part in zip(("keys", "values"), layer, strict=True)
            for key, tensor in part.state_dict().items()
        }
        | {
            f"{name}.{half}": tensor
            for name, pair in adapter.changes.items()
            for half, tensor in zip(("up", "down"), pair, strict=True)
        }
    )


def lora_identities(model: "Model") -> tuple[LoraIdentity, ...]:
    """What is fused into a model's UNet."""
    return tuple(
        LoraIdentity(digest, float(weight)) for digest, (_, weight) in zip(model.lora_digests, model.loras, strict=True)
    )


@dataclass(frozen=True, slots=True)
class ComponentMaker:
    """Makes the components of one loaded model. `networks` are its plain ones, of the type engines are to have."""

    networks: EagerNetworks
    sizes: ModelSizes
    loras: tuple[LoraIdentity, ...] = ()
    model: str = ""
    digest: Callable[[nn.Module], str] = digest_of_weights
    """Of a module's weights as they are now; for callers that remember it."""
    base: nn.Module | None = None
    """The UNet without the `loras`, where there are some: its weights and what they are name the fused ones, whose last
    bits depend on the machine that fused them."""

    def unet(
        self, *, control: nn.Module | None = None, adapter: ImageAdapter | None = None, recalled: int = 0
    ) -> Component:
        """The UNet. `control` is a ControlNet of the family, for the shapes of its residuals; `adapter` is an
        IP-Adapter for it, whose layers become part of it; `recalled` is how many earlier pictures are attended to. They
        make the variants that take what these give; the last gives the keys and values of its own picture, too."""
        networks = self.networks
        unet: Any = networks.unet
        inputs = self._unet_inputs()
        shapes = [] if control is None else self._residual_shapes(control)
        for index, shape in enumerate(shapes):
            name = "control_mid" if index == len(shapes) - 1 else f"control_down_{index}"
            inputs.add(name, dtype_name(networks.dtype), *shape)
        weights = self.digest(self.base or unet)
        if adapter is not None:
            inputs.add("image_tokens", dtype_name(networks.dtype), *adapter.token_shape)
            inputs.add("image_strengths", "float32", len(adapter.layers))
            weights = combined((("unet", weights), ("adapter", digest_of_layers(adapter))))
        if recalled:
            inputs.add(
                "bank", dtype_name(networks.dtype), recalled, bank_length(self_layers(unet, *self.sizes.latent[1:]))
            )
            inputs.add("fresh", "bool")
        if adapter is not None or recalled:
            networks = ConditionedNetworks(
                unet,
                networks.vae,
                image_layers=() if adapter is None else adapter.layers,
                changes=None if adapter is None else adapter.changes,
                recalls=self.sizes.latent[1:] if recalled else None,
            )
        has_tokens = adapter is not None
        return Component(
            name=unet_name(control=control is not None, tokens=has_tokens, recalls=recalled > 0),
            module=UnetModule(networks, controls=len(shapes), has_tokens=has_tokens, recalls=recalled > 0),
            inputs=tuple(inputs.entries),
            outputs=("prediction", "own") if recalled else ("prediction",),
            config={"unet": _config_of(unet)},
            weights=weights,
            dtype=dtype_name(networks.dtype),
            loras=self.loras,
            model=self.model,
            plainly=plain_blocks,
        )

    def controlnet(self, controlnet: nn.Module, name: str = "") -> Component:
        """A ControlNet, its scale an input. `name` is for people."""
        networks, sizes = self.networks, self.sizes
        dtype = dtype_name(networks.dtype)
        inputs = self._unet_inputs(last=False)
        config: Any = getattr(controlnet, "config")  # noqa: B009 - a module of diffusers has one
        inputs.add("image", dtype, int(config.conditioning_channels), sizes.height, sizes.width)
        inputs.add("scale", dtype)
        if takes_sizes(controlnet):
            self._add_xl(inputs)
        count = len(self._residual_shapes(controlnet))
        return Component(
            name="controlnet",
            module=ControlNetModule(controlnet),
            inputs=tuple(inputs.entries),
            outputs=(*(f"control_down_{index}" for index in range(count - 1)), "control_mid"),
            config={"controlnet": _config_of(controlnet)},
            weights=self.digest(controlnet),
            dtype=dtype,
            model=name or self.model,
            plainly=plain_blocks,
        )

    def encoder(self) -> Component:
        """The encoder of the VAE: picture in, unscaled latent out."""
        inputs = InputList(self.sizes.streams)
        inputs.add("image", dtype_name(self.networks.vae_dtype), 3, self.sizes.height, self.sizes.width)
        return self._vae("encoder", EncoderModule(self.networks), inputs, "latent")

    def decoder(self) -> Component:
        """The decoder of the VAE: unscaled latent in, picture out."""
        inputs = InputList(self.sizes.streams)
        inputs.add("latent", dtype_name(self.networks.vae_dtype), *self.sizes.latent)
        return self._vae("decoder", DecoderModule(self.networks), inputs, "image")

    def frame(self, frame: Frame, knobs: Knobs, memory: Memory) -> Component:
        """The whole frame. `knobs` and `memory` are those of one stream of the kind that it will be given."""
        knobs = unprepared(knobs)  # an engine fuses by itself, and is given what people turn
        inputs = InputList(self.sizes.streams)
        inputs.add("image", "float32", 3, self.sizes.height, self.sizes.width)
        blocks: list[tuple[str, torch.Tensor]] = [*zip(Knobs._fields, knobs, strict=True)]
        blocks += zip(Memory._fields, memory, strict=True)
        for name, tensor in blocks:
            if tensor.numel():
                inputs.add(name, dtype_name(tensor.dtype), *tensor.shape[1:])
        unet, vae = self.networks.unet, self.networks.vae
        kept = [name for name, tensor in zip(Memory._fields, memory, strict=True) if tensor.numel()]
        weights = combined((("unet", self.digest(self.base or unet)), ("vae", self.digest(vae))))
        return Component(
            name=f"frame-{frame.guidance}-{frame.slots}",
            module=FrameModule(frame, (knobs, memory)),
            inputs=tuple(inputs.entries),
            outputs=("image", "latent", *(f"next_{name}" for name in kept)),
            config={
                "unet": _config_of(unet),
                "vae": _config_of(vae),
                "frame": {
                    "slots": frame.slots,
                    "guidance": frame.guidance,
                    "prediction": frame.prediction,
                    "batched": frame.batched,
                    "compat": frame.compat,
                },
            },
            weights=weights,
            dtype=dtype_name(self.networks.dtype),
            loras=self.loras,
            model=self.model,
            plainly=plain_blocks,
        )

    def _unet_inputs(self, *, last: bool = True) -> InputList:
        networks, sizes = self.networks, self.sizes
        unet: Any = networks.unet
        dtype = dtype_name(networks.dtype)
        inputs = InputList(sizes.rows)
        inputs.add("latents", dtype, *sizes.latent)
        inputs.add("timesteps", "int64")
        inputs.add("texts", dtype, 77, unet.config.cross_attention_dim)
        if networks.is_xl and last:
            self._add_xl(inputs)
        return inputs

    def _add_xl(self, inputs: InputList) -> None:
        unet: Any = self.networks.unet
        dtype = dtype_name(self.networks.dtype)
        times = TIME_IDS * unet.config.addition_time_embed_dim
        inputs.add("pooled", dtype, unet.config.projection_class_embeddings_input_dim - times)
        inputs.add("time_ids", dtype, TIME_IDS)

    def _residual_shapes(self, controlnet: nn.Module) -> list[tuple[int, ...]]:
        """Of what a ControlNet of this family gives for one row: those of the skip connections, then the middle's."""
        _, height, width = self.sizes.latent
        found: list[tuple[int, ...]] = []
        config: Any = getattr(controlnet, "config")  # noqa: B009 - a module of diffusers has one
        blocks = list(config.block_out_channels)
        found.append((blocks[0], height, width))
        for index, block in enumerate(blocks):
            found += [(block, height, width)] * config.layers_per_block
            if index < len(blocks) - 1:
                height, width = -(-height // 2), -(-width // 2)
                found.append((block, height, width))
        return [*found, (blocks[-1], height, width)]

    def _vae(self, name: str, module: nn.Module, inputs: InputList, output: str) -> Component:
        vae = self.networks.vae
        return Component(
            name=name,
            module=module,
            inputs=tuple(inputs.entries),
            outputs=(output,),
            config={"vae": _config_of(vae)},
            weights=self.digest(vae),
            dtype=dtype_name(self.networks.vae_dtype),
            model=self.model,
            plainly=plain_blocks,
        )


def _config_of(module: nn.Module) -> dict[str, Any]:
    """What a network of diffusers was made with, without the names and paths that came along."""
    config: Mapping[str, Any] = getattr(module, "config")  # noqa: B009 - as above
    kept = {name: value for name, value in dict(config).items() if not name.startswith("_")}
    return {"class": type(module).__name__, **kept}


__all__ = [
    "ComponentMaker",
    "ControlNetModule",
    "DecoderModule",
    "EncoderModule",
    "FrameModule",
    "ModelSizes",
    "UnetModule",
    "digest_of_layers",
    "lora_identities",
    "row_ranges",
    "unet_name",
]
