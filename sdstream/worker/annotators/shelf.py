"""The loaded networks of image processors: each once for all streams of a worker."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.owning import own_tensors
from sdstream.directories import ModelPlaces
from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.answers import EngineAnswers, PartRequest
from sdstream.worker.annotators.parted import PartedNetwork
from sdstream.worker.annotators.weights import Finder, fill, finder, locate
from sdstream.worker.files import published
from sdstream.worker.files.published import WeightSource

KEPT = 4
"""Networks that stay loaded when no stream uses them, the ones used last."""
FETCHES = 4
"""Networks whose files are looked for and fetched side by side: one that hangs holds up no other, and as many as that
until they are given up for stalled (`sdstream.pace`)."""

Loader = Callable[[Finder, torch.dtype], nn.Module]
"""Makes a network on the CPU; the type is what the device is fastest with. Raises `ModelUnavailable`."""


def _load_hed(find: Finder, dtype: torch.dtype) -> nn.Module:
    from sdstream.worker.annotators.edges import EdgeNetwork

    return _filled(EdgeNetwork(), published.HED, find, "hed")


def _load_openpose(*, hands: bool, face: bool) -> Loader:
    def load(find: Finder, dtype: torch.dtype) -> nn.Module:
        from sdstream.worker.annotators.parts import FACE_POINTS, HAND_POINTS, PartNetwork, WholeNetwork
        from sdstream.worker.annotators.people import PeopleNetwork

        body = PeopleNetwork()
        hand = PartNetwork(HAND_POINTS) if hands else None
        points = PartNetwork(FACE_POINTS) if face else None
        wanted = ((body, published.OPENPOSE), (hand, published.HAND_POINTS), (points, published.FACE_POINTS))
        # All are looked for before any is read, so that one that is missing is named at once.
        found = [
            (network, locate(source, find, "openpose") / source.files[0])
            for network, source in wanted
            if network is not None
        ]
        for network, file in found:
            fill(network, file)
        return WholeNetwork(body, hand, points)

    return load


def _load_enlarger(find: Finder, dtype: torch.dtype) -> nn.Module:
    from sdstream.worker.annotators.enlarging import EnlargingNetwork

    network = EnlargingNetwork()
    _filled(network.enlarge, published.ENLARGER, find, "realesrgan_trt")
    return network.to(dtype)


def _load_lines(source: WeightSource) -> Loader:
    def load(find: Finder, dtype: torch.dtype) -> nn.Module:
        from sdstream.worker.annotators.drawing import AnimeNetwork, LineNetwork

        made = AnimeNetwork() if source is published.ANIME_LINES else LineNetwork()
        return _filled(made, source, find, "lineart")

    return load


def _load_depth(find: Finder, dtype: torch.dtype) -> nn.Module:
    from sdstream.worker.annotators.depth import load_depth

    folder = locate(published.DEPTH, find, "depth")
    return _from_transformers(lambda: load_depth(folder, dtype), "depth")


def _load_poses(find: Finder, dtype: torch.dtype) -> nn.Module:
    from sdstream.worker.annotators.poses import load_poses

    detector, joints = (locate(source, find, "pose_tensorrt") for source in (published.DETECTOR, published.JOINTS))
    return _from_transformers(lambda: load_poses(detector, joints, dtype), "pose_tensorrt")


def _load_landmarks(source: WeightSource) -> Loader:
    def load(find: Finder, dtype: torch.dtype) -> nn.Module:
        from sdstream.worker.annotators.landmarks import PoseTask

        return PoseTask(locate(source, find, "mediapipe_pose") / source.files[0])

    return load


def _load_person(source: WeightSource) -> Loader:
    def load(find: Finder, dtype: torch.dtype) -> nn.Module:
        from sdstream.worker.annotators.landmarks import PersonTask

        return PersonTask(locate(source, find, "mediapipe_segmentation") / source.files[0])

    return load


def _load_flow(name: str) -> Loader:
    def load(find: Finder, dtype: torch.dtype) -> nn.Module:
        from sdstream.worker.annotators.flow import make_flow

        network = make_flow(
            name
        )  # in float32 on every device: in half of it the places that it compares are too coarse
        source = published.FLOWS[name]
        fill(network.raft, locate(source, find, "temporal_net_tensorrt") / source.files[0])
        return network

    return load


def _filled(network: nn.Module, source: WeightSource, find: Finder, processor: str) -> nn.Module:
    fill(network, locate(source, find, processor) / source.files[0])
    return network


def _from_transformers(load: Callable[[], nn.Module], processor: str) -> nn.Module:
    try:
        return own_tensors(load())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"the network of {processor} cannot be loaded: {first_line(error)}") from error


LOADERS: Mapping[str, Loader] = {
    "depth": _load_depth,
    "hed": _load_hed,
    "lineart": _load_lines(published.LINES),
    "lineart_coarse": _load_lines(published.COARSE_LINES),
    "lineart_anime": _load_lines(published.ANIME_LINES),
    **{
        name: _load_openpose(hands=bool(number & 1), face=bool(number & 2))
        for number, name in enumerate(published.OPENPOSE_NETWORKS)
    },
    "pose": _load_poses,
    "realesrgan": _load_enlarger,
    **{name: _load_landmarks(*published.NETWORKS[name]) for name in published.POSE_TASKS},
    **{name: _load_person(*published.NETWORKS[name]) for name in published.PERSON_TASKS},
    **{name: _load_flow(name) for name in published.FLOWS},
}


LookFor = Callable[[PartRequest], None]
"""Has an engine of a part looked for; never waits."""


def nobody() -> LookFor | None:
    """For shelves whose networks stay in torch."""
    return None


@dataclass(slots=True)
class _Load:
    """A network, loaded or on its way, and the same with engines, once somebody asked for that."""

    network: "Future[nn.Module]"
    engined: "Future[nn.Module] | None" = None

    @property
    def failed(self) -> bool:
        return self.network.done() and self.network.exception() is not None


class AnnotatorShelf:
    """Networks by name on one device. Threads may call at any time. Of those that load one is made at a time, while the
    files of others are fetched.

    `optical_flow` is the network that finds motion, None where none does.
    """

    def __init__(
        self,
        device: torch.device,
        places: ModelPlaces | None = None,
        *,
        find: Finder | None = None,
        loaders: Mapping[str, Loader] = LOADERS,
        engines: Callable[[], LookFor | None] = nobody,
        optical_flow: str | None = None,
    ) -> None:
        """`engines` says whom to ask for engines, None where nobody looks for any."""
        self.optical_flow = optical_flow
        self._device = device
        self._find = find or finder(places or ModelPlaces())
        self._loaders = loaders
        self._engines = engines
        self._lock = threading.Lock()
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._threads = ThreadPoolExecutor(FETCHES, "annotators")
        self._making = threading.Lock()
        """Held by whoever makes a network: libraries set up the whole process for that."""

    def request(self, name: str, *, engines: bool = False) -> "Future[nn.Module]":
        """The network, loaded or on its way; its failure is a `ModelUnavailable`, and another request tries again.

        With `engines` its parts are answered by engines as soon as there are some. The weights are those of all who
        ask for the network, and who asks without engines is not answered by any.
        """
        with self._lock:
            load = self._loads.get(name)
            if load is None or load.failed:
                load = self._loads[name] = _Load(self._threads.submit(self._load, name))
            self._loads.move_to_end(name)
            while len(self._loads) > KEPT:
                self._loads.popitem(last=False)  # streams that use it hold it
            if not engines or (look_for := self._engines()) is None:
                return load.network
            if load.engined is None:
                load.engined = _engined(load.network, name, look_for)
            return load.engined

    def _load(self, name: str) -> nn.Module:
        with self._making:
            return self._make(name)

    def _find_beside(self, source: WeightSource) -> Path | None:
        """As `find`, and others make networks meanwhile."""
        with _released(self._making):
            return self._find(source)

    def _make(self, name: str) -> nn.Module:
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        network: Any = self._loaders[name](self._find_beside, dtype)
        network.requires_grad_(False).eval()
        bad = [key for key, value in network.state_dict().items() if value.is_floating_point() and not _finite(value)]
        if bad:
            raise ModelUnavailable(f"the network of {name} holds weights that are not finite numbers, such as {bad[0]}")
        return network.to(self._device)


@contextmanager
def _released(lock: threading.Lock) -> Generator[None]:
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


def _engined(plain: "Future[nn.Module]", name: str, look_for: LookFor) -> "Future[nn.Module]":
    """The network of `plain`, with its parts answered by engines, where it has parts."""
    made: Future[nn.Module] = Future()

    def give(done: "Future[nn.Module]") -> None:
        error = done.exception()
        if error is not None:
            made.set_exception(error)
            return
        network = done.result()
        answers = EngineAnswers(name, look_for)
        made.set_result(network.answered_by(answers) if isinstance(network, PartedNetwork) else network)

    plain.add_done_callback(give)
    return made


def _finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())


__all__ = ["FETCHES", "KEPT", "LOADERS", "AnnotatorShelf", "Loader", "LookFor"]
