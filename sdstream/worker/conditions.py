"""What steers a stream's diffusion besides its text: ControlNets, a style image, earlier pictures. Loaded here."""

import base64
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import ReferenceType, WeakValueDictionary, ref

import torch
from torch import nn

from sdstream.diffusion.adapters import ImageAdapter, layer_strengths
from sdstream.diffusion.attention import bank_length, self_layers
from sdstream.diffusion.conditions import embed_image, load_adapter, load_controlnet, load_image_encoder
from sdstream.diffusion.controls import window
from sdstream.diffusion.fetching.selection import NETWORK
from sdstream.diffusion.fetching.sources import get_files
from sdstream.diffusion.loading.models import Model, Progress
from sdstream.diffusion.state import Recall, Steering, Style
from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelUnavailable
from sdstream.params import StreamParams, StyleImage
from sdstream.params.attainable import ADAPTER, active_controlnets, controlnet_part, style_of
from sdstream.worker.annotators.faces import FaceNetworks
from sdstream.worker.blame import blaming
from sdstream.worker.files.published import ADAPTERS
from sdstream.worker.loading.key_turns import KeyTurns

KEPT_CONTROLNETS = 3
"""ControlNets that stay loaded when no stream uses them, the ones used last."""
KEPT_STYLES = 16


@dataclass(frozen=True, slots=True)
class WantedNet:
    """A ControlNet to be loaded: where its files are, a directory or a hub id, and the channels of its picture."""

    source: str
    channels: int = 3


@dataclass(frozen=True, slots=True)
class WantedConditions:
    """What params ask to be loaded; streams that ask for the same can ride together."""

    controlnets: tuple[WantedNet, ...] = ()
    adapter: str = ""
    """`ip_adapter.type`, empty for none."""
    recalled: int = 0
    """Earlier pictures that are attended to."""

    @classmethod
    def of(cls, params: StreamParams) -> "WantedConditions":
        cached: Any = getattr(params, "cached_attention", None)
        adapter: Any = getattr(params, "ip_adapter", None)
        return cls(
            tuple(WantedNet(net.source, net.facts.conditioning_channels) for net in active_controlnets(params)),
            adapter.type if style_of(params) is not None else "",
            cached.max_frames if cached is not None and cached.enabled else 0,
        )


class Embedder(Protocol):
    """Says in numbers what an IP-Adapter shall see in a style image."""

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """The embedding [embedding] of `image`, float [1, 3, H, W], 0 to 1. Raises `NoFace`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ClipEmbedder:
    """By a CLIP vision model."""

    encoder: nn.Module

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """See `Embedder`."""
        return embed_image(self.encoder, image)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What was loaded for `wanted`. Two are equal when their streams can ride together."""

    wanted: WantedConditions = WantedConditions()
    controlnets: tuple[nn.Module, ...] = ()
    adapter: ImageAdapter | None = None
    embedder: Embedder | None = None

    def steering(self, params: StreamParams) -> Steering | None:
        """The scales of the ControlNets in each denoising step."""
        nets, slots = active_controlnets(params), len(params.t_index_list)
        if not nets:
            return None
        windows = [window(net.control_guidance_start, net.control_guidance_end, slots) for net in nets]
        scales = [
            [net.conditioning_scale if kept[slot] else 0.0 for net, kept in zip(nets, windows, strict=True)]
            for slot in range(slots)
        ]
        channels = sum(net.facts.conditioning_channels for net in nets)
        return Steering(torch.tensor(scales), channels, params.height, params.width)

    def style(self, params: StreamParams, model: Model) -> Style | None:
        """The style image as tokens, projected once for each image.

        Raises `ModelUnavailable` when it is no image, `NoFace` when one is looked for in it and there is none.
        """
        image = style_of(params)
        if image is None or self.adapter is None or self.embedder is None:
            return None
        with blaming(ADAPTER):
            tokens, without = _styles.get(image, self.adapter, self.embedder)
        settings: Any = params
        strengths = layer_strengths(
            self.adapter.layer_names, settings.ip_adapter.weight_type, settings.ip_adapter.scale, model.family
        )
        return Style(tokens, without, strengths)

    def recall(self, params: StreamParams, model: Model) -> Recall | None:
        """How earlier pictures are kept."""
        if not self.wanted.recalled:
            return None
        _, height, width = model.latent_shape(params.width, params.height)
        settings: Any = params
        length = bank_length(self_layers(model.unet, height, width))
        return Recall(self.wanted.recalled, length, settings.cached_attention.interval)


def calm_of(params: StreamParams) -> tuple[float, float]:
    """How much of the latent that left last is mixed in before and after denoising; several in a row add up."""
    shares: list[float] = []
    for block in (params.latent_preprocessing, params.latent_postprocessing):
        rest = 1.0
        for processor in () if block is None else block.active:
            rest *= 1.0 - float(processor.params["feedback_strength"])
        shares.append(1.0 - rest)
    return shares[0], shares[1]


class ConditionShelf:
    """Loaded ControlNets and IP-Adapters, each once for all streams. Threads may call at any time.

    What is here is given out while others fetch, each is fetched by one thread at a time, and one loads at a time.
    """

    def __init__(self) -> None:
        self._look = threading.Lock()
        self._load = threading.Lock()
        self._turns = KeyTurns()
        self._nets: WeakValueDictionary[tuple[object, ...], nn.Module] = WeakValueDictionary()
        self._kept: OrderedDict[tuple[object, ...], nn.Module] = OrderedDict()
        self._adapters: WeakValueDictionary[tuple[int, str, ModelPlaces], _Loaded] = WeakValueDictionary()
        self._last: _Loaded | None = None

    def get(self, wanted: WantedConditions, model: Model, places: ModelPlaces, progress: Progress) -> Conditions:
        """What `wanted` asks for, for `model`. `progress` may raise to give up.

        Raises `ModelUnavailable`, naming what is missing.
        """
        nets: list[nn.Module] = []
        for net in wanted.controlnets:
            with blaming(controlnet_part(net.source)):
                nets.append(self._net(net, model, places, progress))
        if not wanted.adapter:
            return Conditions(wanted, tuple(nets))
        with blaming(ADAPTER):
            loaded = self._adapter(wanted.adapter, model, places, progress)
        return Conditions(wanted, tuple(nets), loaded.adapter, loaded.embedder)

    def _net(self, wanted: WantedNet, model: Model, places: ModelPlaces, progress: Progress) -> nn.Module:
        key = (wanted, places, str(model.device), model.dtype)
        net = self._known_net(key)
        if net is not None:
            return net
        name = wanted.source
        what = f"the ControlNet {name}"
        with self._turns.turn(key, what, progress):
            net = self._known_net(key)  # the turn before may have been for it
            if net is None:
                folder = get_files(name, NETWORK, places, progress, what, name)
                with self._load:
                    progress(f"loading {what}", None)
                    net = load_controlnet(folder, model.unet, model.dtype, model.device)
                _check_channels(name, net, wanted.channels)
                with self._look:
                    self._keep_net(key, net)
            return net

    def _known_net(self, key: tuple[object, ...]) -> nn.Module | None:
        with self._look:
            net = self._nets.get(key)
            if net is not None:
                self._keep_net(key, net)
            return net

    def _keep_net(self, key: tuple[object, ...], net: nn.Module) -> None:
        self._nets[key] = self._kept[key] = net
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT_CONTROLNETS:
            self._kept.popitem(last=False)

    def _adapter(self, kind: str, model: Model, places: ModelPlaces, progress: Progress) -> "_Loaded":
        key = (id(model.unet), kind, places)
        loaded = self._adapters.get(key)
        if loaded is None or loaded.model() is not model:
            what = f"the IP-Adapter of type {kind}"
            # By its files, not by the model: for two models they are fetched once, too.
            with self._turns.turn((model.family, kind, places), what, progress):
                loaded = self._adapters.get(key)
                if loaded is None or loaded.model() is not model:
                    loaded = self._load_adapter(kind, what, model, places, progress)
        with self._look:
            self._adapters[key] = self._last = loaded
        return loaded

    def _load_adapter(self, kind: str, what: str, model: Model, places: ModelPlaces, progress: Progress) -> "_Loaded":
        files = ADAPTERS.get((model.family, kind))
        if files is None:
            raise ModelUnavailable(f"this version of sdstream has no IP-Adapter of type {kind} for {model.family}")
        pull = f"ip_adapter:{model.family if files.faces is None else kind}"
        root = get_files(files.repository, files.files, places, progress, what, pull)
        faces = None
        if files.faces is not None:
            faces = get_files(files.faces.repository, files.faces.files, places, progress, what, pull)
        with self._load:
            progress(f"loading {what}", None)
            embedder: Embedder
            if files.faces is None or faces is None:
                embedder = ClipEmbedder(load_image_encoder(root / files.encoder, model.dtype, model.device))
            else:
                embedder = FaceNetworks(*(faces / name for name in files.faces.files))
            return _Loaded(ref(model), load_adapter(root / files.adapter, model.unet), embedder)


def _check_channels(name: str, network: Any, expected: int) -> None:
    found = int(network.config.conditioning_channels)
    if found != expected:
        raise ModelUnavailable(
            f"the ControlNet {name} takes control pictures of {found} channels, and is used with {expected}",
            hint='Set its "conditioning_channels" in SDSTREAM_CONTROLNETS.',
        )


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class _Loaded:
    model: ReferenceType[Model]
    """Weak: the shelf keeps the last adapter, and the model that it was for must be able to make room for another."""
    adapter: ImageAdapter
    embedder: Embedder


class _Styles:
    """The tokens of style images: each is projected once for an adapter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int], tuple[ImageAdapter, torch.Tensor, torch.Tensor]] = OrderedDict()

    def get(self, image: StyleImage, adapter: ImageAdapter, embedder: Embedder) -> tuple[torch.Tensor, torch.Tensor]:
        key = (image.digest, id(adapter))
        with self._lock:
            known = self._known.get(key)
            if known is None or known[0] is not adapter:
                known = (adapter, *adapter.tokens(_embedding(image, adapter, embedder)))
                self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > KEPT_STYLES:
                self._known.popitem(last=False)
            return known[1:]


def _embedding(image: StyleImage, adapter: ImageAdapter, embedder: Embedder) -> torch.Tensor:
    embedding = embedder.embed(read_picture(image))
    if len(embedding) != adapter.embedding:
        raise ModelUnavailable(
            f"{adapter.file or 'the IP-Adapter'} takes embeddings of {adapter.embedding} numbers, and images are "
            f"embedded as {len(embedding)}"
        )
    return embedding


@lru_cache(maxsize=4)
def read_picture(image: StyleImage) -> torch.Tensor:
    """The picture of a data URI, float [1, 3, H, W], 0 to 1. Raises `ModelUnavailable` when it cannot be read.

    The server has looked at it already; this is what happens to one that it could not look at in time.
    """
    import numpy
    from PIL import Image

    try:
        Image.init()
        formats = [name for name in FORMATS if name in Image.OPEN]  # a Pillow may be built without one
        with Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2])), formats=formats) as opened:
            pixels: Any = numpy.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ModelUnavailable("the style image is not a picture that can be read") from error
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF")
"""What the server lets pass; see `sdstream.streams.style_images`."""
_styles = _Styles()
shelf = ConditionShelf()
"""Of this process."""

__all__ = [
    "ConditionShelf",
    "Conditions",
    "WantedConditions",
    "WantedNet",
    "calm_of",
    "read_picture",
    "shelf",
]
