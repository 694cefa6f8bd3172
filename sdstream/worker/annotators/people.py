"""OpenPose's body network and how its maps are read: joints as peaks, limbs by the fields between them.

After Cao and others (2017). The layers are named as the published weights name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from sdstream.worker.annotators.convolutions import POOL, NamedConvolutions
from sdstream.worker.annotators.skeletons import JOINTS, Skeleton
from sdstream.worker.looks import Look, Looking

HEIGHT = 368
"""Height in pixels at which the network looks, as in training; sides are multiples of `STRIDE`."""
STRIDE = 8
WIDEST = 2048
"""Width in pixels at which it looks at most: a wider picture is squeezed, or a line of pixels would fill the memory."""
PAIRS = (
    ((1, 2), 12),
    ((1, 5), 20),
    ((2, 3), 14),
    ((3, 4), 16),
    ((5, 6), 22),
    ((6, 7), 24),
    ((1, 8), 0),
    ((8, 9), 2),
    ((9, 10), 4),
    ((1, 11), 6),
    ((11, 12), 8),
    ((12, 13), 10),
    ((1, 0), 28),
    ((0, 14), 30),
    ((14, 16), 34),
    ((0, 15), 32),
    ((15, 17), 36),
    ((2, 16), 18),
    ((5, 17), 26),
)
"""Joints that limbs connect, and the first of the two channels with each limb's field."""
CONFIRMING = ((2, 16), (5, 17))
"""Limbs between shoulder and ear, which nobody draws: they add to a person and found none."""
PEAK = 0.1
FIELD = 0.05
SAMPLES = 10
MOST_PEAKS = 32
"""Of one joint: a picture of noise must not take for ever."""
LEAST_JOINTS, LEAST_SCORE = 4, 0.4

_TRUNK = (
    ("conv1_1", 3, 64),
    ("conv1_2", 64, 64),
    (POOL, 0, 0),
    ("conv2_1", 64, 128),
    ("conv2_2", 128, 128),
    (POOL, 0, 0),
    ("conv3_1", 128, 256),
    ("conv3_2", 256, 256),
    ("conv3_3", 256, 256),
    ("conv3_4", 256, 256),
    (POOL, 0, 0),
    ("conv4_1", 256, 512),
    ("conv4_2", 512, 512),
    ("conv4_3_CPM", 512, 256),
    ("conv4_4_CPM", 256, 128),
)
_HEADS = (("L1", 38), ("L2", 19))
_STAGES = range(2, 7)


class PeopleNetwork(NamedConvolutions):
    """Maps of limbs and joints. `divisor` makes every layer that much narrower, for tests."""

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()

        def narrow(channels: int) -> int:
            return channels if channels <= 3 else channels // divisor

        for name, inside, outside in _TRUNK:
            if name != POOL:
                self.add(name, narrow(inside), narrow(outside), 3)
        base = 128 // divisor
        for head, maps in _HEADS:
            for number in range(1, 4):
                self.add(f"conv5_{number}_CPM_{head}", base, base, 3)
            self.add(f"conv5_4_CPM_{head}", base, 512 // divisor, 1)
            self.add(f"conv5_5_CPM_{head}", 512 // divisor, maps, 1)
            for stage in _STAGES:
                self.add_stage(f"stage{stage}_{head}", base + sum(count for _, count in _HEADS), base, maps)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`image` float [N, 3, H, W], 0 to 1, sides multiples of 8.

        Returns the fields of limbs [N, 38, H/8, W/8] and the maps of joints [N, 19, H/8, W/8], the last of nothing.
        """
        values = self.look(image, (name for name, _, _ in _TRUNK))
        maps = [self.run(values, [f"conv5_{number}_CPM_{head}" for number in range(1, 6)]) for head, _ in _HEADS]
        for stage in _STAGES:
            both = torch.cat((*maps, values), 1)
            maps = [self.run_stage(both, f"stage{stage}_{head}") for head, _ in _HEADS]
        return maps[0], maps[1]


def find_people(network: PeopleNetwork, image: torch.Tensor) -> Looking[list[Skeleton]]:
    """The people in one picture, float [1, 3, H, W], 0 to 1. Waits for the device: peaks are grouped on the host."""
    height = HEIGHT
    width = min(WIDEST, max(1, round(image.shape[3] * HEIGHT / image.shape[2] / STRIDE)) * STRIDE)
    small = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
    fields, joints = yield Look(network, small, network)
    return group(fields.float(), joints.float(), width, height)


def group(fields: torch.Tensor, joints: torch.Tensor, width: int, height: int) -> list[Skeleton]:
    """People from the network's maps, [1, 38, h, w] and [1, 19, h, w], of a picture of `width` and `height` pixels."""
    size = (height, width)
    large = functional.interpolate(joints[:, :JOINTS], size, mode="bicubic", align_corners=False)
    peaks = _peaks(_smooth(large)[0], large[0])
    lines = functional.interpolate(fields, size, mode="bicubic", align_corners=False)[0].cpu()
    people: list[_Person] = []
    for (start, end), channel in PAIRS:
        limbs = _connect(peaks[start], peaks[end], lines[channel : channel + 2], height)
        for first, last, score in limbs:
            _attach(people, start, end, first, last, score, peaks, grows=(start, end) not in CONFIRMING)
    kept = [
        person
        for person in people
        if len(person.joints) >= LEAST_JOINTS and person.score / len(person.joints) >= LEAST_SCORE
    ]
    return [
        Skeleton(
            tuple(
                (peaks[joint][person.joints[joint]][0] / width, peaks[joint][person.joints[joint]][1] / height)
                if joint in person.joints
                else None
                for joint in range(JOINTS)
            )
        )
        for person in kept
    ]


Peak = tuple[float, float, float]
"""x, y and how sure."""


@dataclass(slots=True)
class _Person:
    joints: dict[int, int] = field(default_factory=dict[int, int])
    """Joint to the number of its peak."""
    score: float = 0.0


def _smooth(maps: torch.Tensor, sigma: float = 3.0) -> torch.Tensor:
    radius = 9
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    channels = maps.shape[1]
    flat = maps.view(-1, 1, *maps.shape[2:])
    wide = functional.conv2d(functional.pad(flat, (radius, radius, 0, 0), "replicate"), weights)
    high = functional.conv2d(functional.pad(wide, (0, 0, radius, radius), "replicate"), weights.transpose(2, 3))
    return high.view(-1, channels, *maps.shape[2:])


def _peaks(smooth: torch.Tensor, sure: torch.Tensor) -> list[list[Peak]]:
    """The local maxima of each map, the surest first."""
    around = functional.max_pool2d(smooth[None], 3, 1, 1)[0]
    found = (smooth == around) & (smooth > PEAK)
    peaks: list[list[Peak]] = [[] for _ in range(len(smooth))]
    places: Any = found.nonzero()
    scores: Any = sure[found]
    places_on_host: list[list[int]] = places.tolist()
    scores_on_host: list[float] = scores.tolist()
    for (joint, y, x), score in zip(places_on_host, scores_on_host, strict=True):
        peaks[joint].append((float(x), float(y), score))
    return [sorted(own, key=lambda peak: -peak[2])[:MOST_PEAKS] for own in peaks]


def _connect(
    starts: Sequence[Peak], ends: Sequence[Peak], lines: torch.Tensor, height: int
) -> list[tuple[int, int, float]]:
    """Which start goes with which end, the best first, none twice; `lines` [2, H, W] point along the limb."""
    found: list[tuple[float, int, int]] = []
    steps = torch.linspace(0, 1, SAMPLES)
    for first, start in enumerate(starts):
        for last, end in enumerate(ends):
            across, down = end[0] - start[0], end[1] - start[1]
            length = max((across**2 + down**2) ** 0.5, 1e-3)
            x = (start[0] + steps * across).round().long()
            y = (start[1] + steps * down).round().long()
            along = lines[0, y, x] * (across / length) + lines[1, y, x] * (down / length)
            score = float(along.mean()) + min(0.5 * height / length - 1, 0.0)
            if score > 0 and float((along > FIELD).float().mean()) > 0.8:
                found.append((score, first, last))
    limbs: list[tuple[int, int, float]] = []
    taken_first: set[int] = set()
    taken_last: set[int] = set()
    for score, first, last in sorted(found, reverse=True):
        if first not in taken_first and last not in taken_last:
            limbs.append((first, last, score))
            taken_first.add(first)
            taken_last.add(last)
    return limbs


def _attach(
    people: list[_Person],
    start: int,
    end: int,
    first: int,
    last: int,
    score: float,
    peaks: Sequence[Sequence[Peak]],
    *,
    grows: bool,
) -> None:
    """Give a limb to the person who has one of its joints; two who each have one, and nothing twice, become one.

    `grows` False: a limb that only confirms, and founds nobody.
    """
    owners = [person for person in people if person.joints.get(start) == first or person.joints.get(end) == last]
    if len(owners) >= 2 and not owners[0].joints.keys() & owners[1].joints.keys():
        owners[0].joints |= owners[1].joints
        owners[0].score += owners[1].score + score
        people.remove(owners[1])
    elif owners:
        owner = owners[0]
        for joint, number in ((start, first), (end, last)):
            if joint not in owner.joints:
                owner.joints[joint] = number
                owner.score += peaks[joint][number][2]
        owner.score += score
    elif grows:
        sure = peaks[start][first][2] + peaks[end][last][2]
        people.append(_Person({start: first, end: last}, sure + score))


__all__ = ["HEIGHT", "STRIDE", "WIDEST", "PeopleNetwork", "find_people", "group"]
