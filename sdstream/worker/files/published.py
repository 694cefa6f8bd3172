"""Where the weights of processors, ControlNets and IP-Adapters are published. No torch here.

At which commits, and with which hashes, `sdstream.diffusion.fetching.pins` says; `docs/models.md` has both together
with the licences.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from sdstream.diffusion.fetching.selection import NETWORK, TRANSFORMERS
from sdstream.diffusion.fetching.sources import SAFETY_CHECKER
from sdstream.params.controlnets import CONTROLNETS, ControlNetFacts, ControlNetKind
from sdstream.params.problems import did_you_mean
from sdstream.settings import Family


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A repository of the hub and what is needed of it. `beginnings` are the first digits of the SHA-256 of files whose
    author says no more of it: what is pinned besides counts more."""

    repository: str
    files: tuple[str, ...]
    licence: str
    beginnings: Mapping[str, str] = field(default_factory=dict[str, str])


DEPTH = WeightSource("depth-anything/Depth-Anything-V2-Small-hf", TRANSFORMERS, "Apache 2.0")
HED = WeightSource("lllyasviel/Annotators", ("ControlNetHED.pth",), "Apache 2.0")
LINES = WeightSource("lllyasviel/Annotators", ("sk_model.pth",), "MIT")
COARSE_LINES = WeightSource("lllyasviel/Annotators", ("sk_model2.pth",), "MIT")
ANIME_LINES = WeightSource("lllyasviel/Annotators", ("netG.pth",), "MIT")
OPENPOSE = WeightSource(
    "lllyasviel/Annotators", ("body_pose_model.pth",), "OpenPose's own, not for commercial use without permission"
)
HAND_POINTS = WeightSource(OPENPOSE.repository, ("hand_pose_model.pth",), OPENPOSE.licence)
FACE_POINTS = WeightSource(OPENPOSE.repository, ("facenet.pth",), OPENPOSE.licence)
DETECTOR = WeightSource("PekingU/rtdetr_v2_r18vd", TRANSFORMERS, "Apache 2.0")
JOINTS = WeightSource("usyd-community/vitpose-base-simple", TRANSFORMERS, "Apache 2.0")
FACES = WeightSource(
    "public-data/insightface",
    ("models/buffalo_l/det_10g.onnx", "models/buffalo_l/w600k_r50.onnx"),
    "InsightFace's own, for research that is not commercial",
)
"""SCRFD and ArcFace, in this order."""
LANDMARKS = tuple(
    WeightSource("google/mediapipe", (f"pose_landmarker_{size}.task",), "Apache 2.0")
    for size in ("lite", "full", "heavy")
)
"""By `model_complexity`."""
PERSONS = tuple(
    WeightSource("google/mediapipe", (f"{name}.tflite",), "Apache 2.0")
    for name in ("selfie_segmenter", "selfie_segmenter_landscape")
)
"""By `model_selection`."""
FLOWS = {
    name: WeightSource("pytorch/vision", (file,), "BSD 3-Clause", {file: file.removesuffix(".pth").rpartition("-")[2]})
    for name, file in (
        ("raft_small", "raft_small_C_T_V2-01064c6d.pth"),
        ("raft_large", "raft_large_C_T_SKHT_V2-ff5fadd5.pth"),
    )
}
"""By `optical_flow` of the settings. Their author puts the beginning of a file's SHA-256 into its name."""
_MEDIAPIPE = "https://storage.googleapis.com/mediapipe-models"
ADDRESSES: Mapping[str, Mapping[str, str]] = {
    "google/mediapipe": {
        file: f"{_MEDIAPIPE}/{task}/{file.partition('.')[0]}/float16/1/{file}"
        for task, sources in (("pose_landmarker", LANDMARKS), ("image_segmenter", PERSONS))
        for source in sources
        for file in source.files
    },
    "pytorch/vision": {
        file: f"https://download.pytorch.org/models/{file}" for source in FLOWS.values() for file in source.files
    },
}
"""What is not on the hub: where the files of these are instead. The addresses name a version of each."""
ENLARGER = WeightSource("ai-forever/Real-ESRGAN", ("RealESRGAN_x2.pth",), "BSD 3-Clause")


CHECKER = WeightSource(SAFETY_CHECKER, TRANSFORMERS, "not stated")
"""What `use_safety_checker` looks with; its weights are published as `pytorch_model.bin`, which stands in."""


OPENPOSE_NETWORKS = ("openpose", "openpose_hands", "openpose_face", "openpose_hands_face")
"""By `include_hands`, plus twice `include_face`."""
POSE_TASKS = ("mediapipe_pose_lite", "mediapipe_pose_full", "mediapipe_pose_heavy")
PERSON_TASKS = ("mediapipe_segmentation", "mediapipe_segmentation_landscape")

NETWORKS: Mapping[str, tuple[WeightSource, ...]] = {
    "depth": (DEPTH,),
    "hed": (HED,),
    "lineart": (LINES,),
    "lineart_coarse": (COARSE_LINES,),
    "lineart_anime": (ANIME_LINES,),
    "openpose": (OPENPOSE,),
    "openpose_hands": (OPENPOSE, HAND_POINTS),
    "openpose_face": (OPENPOSE, FACE_POINTS),
    "openpose_hands_face": (OPENPOSE, HAND_POINTS, FACE_POINTS),
    "pose": (DETECTOR, JOINTS),
    "realesrgan": (ENLARGER,),
    **{name: (source,) for name, source in zip(POSE_TASKS, LANDMARKS, strict=True)},
    **{name: (source,) for name, source in zip(PERSON_TASKS, PERSONS, strict=True)},
    **{name: (source,) for name, source in FLOWS.items()},
}
"""What each network of image processors is loaded from."""
PROCESSORS: Mapping[str, tuple[str, ...]] = {
    "depth": ("depth",),
    "depth_tensorrt": ("depth",),
    "hed": ("hed",),
    "lineart": ("lineart", "lineart_coarse", "lineart_anime"),
    "mediapipe_pose": POSE_TASKS,
    "mediapipe_segmentation": PERSON_TASKS,
    "openpose": OPENPOSE_NETWORKS,
    "pose_tensorrt": ("pose",),
    "realesrgan_trt": ("realesrgan",),
}
"""The networks that each image processor may need."""
CHOSEN: Mapping[str, tuple[str, ...]] = {"temporal_net_tensorrt": tuple(FLOWS)}
"""Networks that a processor looks with where the server's settings say so, and does without elsewhere."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """Where an IP-Adapter and the network that embeds images for it are published."""

    repository: str
    adapter: str
    encoder: str = ""
    """The folder of a CLIP vision model; empty where `faces` take its place."""
    faces: WeightSource | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All that is needed of `repository`."""
        encoder = (f"{self.encoder}/config.json", f"{self.encoder}/model.safetensors") if self.encoder else ()
        return (self.adapter, *encoder)

    @property
    def sources(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Repositories and their files."""
        faces = () if self.faces is None else ((self.faces.repository, self.faces.files),)
        return ((self.repository, self.files), *faces)


ADAPTERS: Mapping[tuple[Family, str], AdapterFiles] = {
    ("sd15", "regular"): AdapterFiles("h94/IP-Adapter", "models/ip-adapter_sd15.safetensors", "models/image_encoder"),
    ("sdxl-turbo", "regular"): AdapterFiles(
        "h94/IP-Adapter", "sdxl_models/ip-adapter_sdxl_vit-h.safetensors", "models/image_encoder"
    ),
    ("sdxl-turbo", "faceid"): AdapterFiles("h94/IP-Adapter-FaceID", "ip-adapter-faceid_sdxl.bin", faces=FACES),
}
"""By family and `ip_adapter.type`."""


def needed_for(
    what: str, controlnets: Mapping[str, ControlNetFacts] = CONTROLNETS
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Repositories and their files that are needed for `what`: an image processor by its name, `controlnet:KIND`, the
    id of a ControlNet, `safety_checker`, `ip_adapter`, `ip_adapter:FAMILY` or `ip_adapter:faceid`, of which only the
    last means faces. A ControlNet needs its preprocessor's weights too.
    `controlnets` are those that the server knows.

    Raises `ValueError`, saying what there is.
    """
    group, _, name = what.partition(":")
    needed: dict[str, dict[str, None]] = {}

    def add(repository: str, files: tuple[str, ...]) -> None:
        needed.setdefault(repository, {}).update(dict.fromkeys(files))

    def add_processor(processor: str) -> None:
        for network in PROCESSORS.get(processor, ()):
            for source in NETWORKS[network]:
                add(source.repository, source.files)

    nets = [
        net
        for net, facts in controlnets.items()
        if net == what or (group == "controlnet" and name in (facts.kind, net))
    ]
    for net in nets:
        add(controlnets[net].source or net, NETWORK)
        add_processor(controlnets[net].preprocessor)
    if group == "ip_adapter":
        for (family, kind), files in ADAPTERS.items():
            # What faces need is licensed for few purposes, so it comes only to who names it.
            if name == kind or (name in ("", family) and kind != "faceid"):
                for repository, wanted in files.sources:
                    add(repository, wanted)
    if what == "safety_checker":
        add(CHECKER.repository, CHECKER.files)
    add_processor(what)
    for network in CHOSEN.get(what, ()):  # only for who names it: by default it needs none of them
        for source in NETWORKS[network]:
            add(source.repository, source.files)
    if not needed:
        raise ValueError(f"{what!r} is nothing that weights are published for; {_known(what, controlnets)}")
    return tuple((repository, tuple(files)) for repository, files in needed.items())


def _known(what: str, controlnets: Iterable[str]) -> str:
    kinds = [f"controlnet:{kind}" for kind in get_args(ControlNetKind)]
    adapters = dict.fromkeys(f"ip_adapter:{part}" for key in ADAPTERS for part in key)
    every = [*PROCESSORS, *CHOSEN, *kinds, "safety_checker", "ip_adapter", *adapters, *controlnets]
    known = ", ".join(every[: len(PROCESSORS) + len(CHOSEN) + len(kinds) + 2])
    return did_you_mean(what, every) or f"one of {known}, or profile:NAME for what a profile of the builder needs"


__all__ = [
    "ADAPTERS",
    "ADDRESSES",
    "ANIME_LINES",
    "CHECKER",
    "CHOSEN",
    "COARSE_LINES",
    "DEPTH",
    "DETECTOR",
    "ENLARGER",
    "FACES",
    "FACE_POINTS",
    "FLOWS",
    "HAND_POINTS",
    "HED",
    "JOINTS",
    "LANDMARKS",
    "LINES",
    "NETWORKS",
    "OPENPOSE",
    "OPENPOSE_NETWORKS",
    "PERSONS",
    "PERSON_TASKS",
    "POSE_TASKS",
    "PROCESSORS",
    "AdapterFiles",
    "WeightSource",
    "needed_for",
]
