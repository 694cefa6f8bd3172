"""Keys: whatever shapes an engine changes its key, and nothing else does."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdstream.engines.keys import (
    EngineKey,
    LoraIdentity,
    TensorRange,
    canonical,
    capabilities_of,
    is_digest,
    target_of,
    target_of_place,
)
from sdstream.engines.weights import digest_of_tensors
from tests.engines.stored import KEY

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
NUMBERS = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | NAMES
CONFIGS = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=4,
)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
LORAS = st.lists(st.builds(LoraIdentity, DIGESTS, st.floats(-4, 4)), max_size=3, unique_by=lambda lora: lora.digest)
TARGETS = st.sets(st.integers(50, 130), min_size=1, max_size=4).map(target_of)


@st.composite
def ranges(draw: st.DrawFn) -> TensorRange:
    shape = tuple(draw(st.lists(st.integers(1, 128), max_size=3)))
    rows = sorted(draw(st.lists(st.integers(1, 64), min_size=3, max_size=3)))
    least, best, most = ((count, *shape) for count in rows)
    return TensorRange(draw(NAMES), draw(st.sampled_from(["float16", "float32"])), least, best, most)


KEYS = st.builds(
    EngineKey,
    weights=DIGESTS,
    config=CONFIGS,
    component=st.sampled_from(["unet", "unet-control", "encoder"]),
    inputs=st.lists(ranges(), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(["float16", "float32"]),
    backend=st.sampled_from(["tensorrt-rtx", "tensorrt", "compiled"]),
    backend_version=st.sampled_from(["1.7.1.116", "11.4.0.106", "2.13.0"]),
    target=TARGETS,
    cuda=st.sampled_from(["none", "12", "13"]),
    loras=LORAS.map(tuple),
    options=CONFIGS,
)


def differently_ordered(value: Any) -> Any:
    """The same JSON with every dict in the other order."""
    if isinstance(value, dict):
        return {name: differently_ordered(value[name]) for name in reversed(list(value))}
    return [differently_ordered(member) for member in value] if isinstance(value, list) else value


@given(KEYS, KEYS)
def test_two_keys_are_equal_exactly_when_their_digests_are(one: EngineKey, other: EngineKey) -> None:
    same = canonical(one.as_json() | {"name": ""}) == canonical(other.as_json() | {"name": ""})
    assert (one.digest == other.digest) == same


@given(KEYS)
def test_the_order_of_dicts_and_of_loras_and_the_name_change_nothing(key: EngineKey) -> None:
    other = replace(
        key,
        config=differently_ordered(dict(key.config)),
        options=differently_ordered(dict(key.options)),
        loras=tuple(reversed(key.loras)),
        name="/some/path/model.safetensors",
    )
    assert (other.digest, other.base, other.place) == (key.digest, key.base, key.place)


@given(KEYS)
def test_a_key_survives_its_json(key: EngineKey) -> None:
    again = EngineKey.from_json(json.loads(json.dumps(key.as_json())))
    assert again.digest == key.digest
    assert again.base == key.base


@given(
    KEYS.filter(lambda key: bool(key.loras)),
    st.sampled_from(
        [
            "weights",
            "component",
            "dtype",
            "backend_version",
            "target",
            "cuda",
            "lora scale",
            "lora",
            "shape",
            "rows",
            "schema",
        ]
    ),
)
def test_each_single_change_changes_the_digest(key: EngineKey, what: str) -> None:
    first, entry = key.loras[0], key.inputs[0]
    changed = {
        "weights": lambda: replace(key, weights=("0" if key.weights[0] != "0" else "1") + key.weights[1:]),
        "component": lambda: replace(key, component=key.component + "-tokens"),
        "dtype": lambda: replace(key, dtype="bfloat16"),
        "backend_version": lambda: replace(key, backend_version=key.backend_version + ".1"),
        "target": lambda: replace(key, target=target_of([*capabilities_of(key.target), 131])),
        "cuda": lambda: replace(key, cuda="14"),
        "lora scale": lambda: replace(key, loras=(LoraIdentity(first.digest, _next(first.scale)), *key.loras[1:])),
        "lora": lambda: replace(key, loras=key.loras[1:]),
        "shape": lambda: replace(
            key,
            inputs=(
                replace(entry, least=(*entry.least, 1), best=(*entry.best, 1), most=(*entry.most, 1)),
                *key.inputs[1:],
            ),
        ),
        "rows": lambda: replace(
            key, inputs=(replace(entry, most=(entry.most[0] + 1, *entry.most[1:])), *key.inputs[1:])
        ),
        "schema": lambda: replace(key, schema=key.schema + 1),
    }[what]()
    assert changed.digest != key.digest
    assert (changed.base == key.base) == (what in ("target", "rows")), "these two say for whom, not what"


def _next(number: float) -> float:
    """The nearest other float."""
    (bits,) = struct.unpack("<q", struct.pack("<d", number))
    (found,) = struct.unpack("<d", struct.pack("<q", bits ^ 1))
    return found


TENSORS = st.dictionaries(
    NAMES,
    st.tuples(st.sampled_from([torch.float16, torch.float32]), st.lists(st.integers(1, 3), max_size=2)),
    min_size=1,
    max_size=3,
)


def made(kinds: dict[str, tuple[torch.dtype, list[int]]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(kinds))
    return {name: torch.rand(shape, generator=generator).to(dtype) for name, (dtype, shape) in kinds.items()}


@given(TENSORS, st.data())
@settings(deadline=None)
def test_one_flipped_bit_of_one_weight_changes_the_digest(kinds: dict[str, Any], data: st.DataObject) -> None:
    tensors = made(kinds)
    before = digest_of_tensors(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    raw = tensors[name].reshape(-1).view(torch.uint8)
    raw[data.draw(st.integers(0, raw.numel() - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert digest_of_tensors(tensors) != before


@given(TENSORS)
@settings(deadline=None)
def test_order_and_layout_of_weights_do_not_change_the_digest(kinds: dict[str, Any]) -> None:
    tensors = made(kinds)
    other = {
        name: tensors[name].t().clone().t() if tensors[name].dim() == 2 else tensors[name]
        for name in reversed(list(tensors))
    }
    assert digest_of_tensors(other) == digest_of_tensors(tensors)


def test_weights_are_told_apart_by_name_shape_and_type() -> None:
    zeros = torch.zeros(4)
    digests = {
        digest_of_tensors({"a": zeros}),
        digest_of_tensors({"b": zeros}),
        digest_of_tensors({"a": zeros.view(2, 2)}),
        digest_of_tensors({"a": torch.zeros(8, dtype=torch.float16)}),
        digest_of_tensors({"a": zeros, "b": zeros}),
        digest_of_tensors({"a": torch.zeros(0)}),
    }
    assert len(digests) == 6


def test_the_readable_name_says_what_it_is_and_is_a_good_file_name() -> None:
    name = replace(KEY, name="stabilityai/SD Turbo").readable
    assert (
        name == f"stabilityai-sd-turbo--unet--1..8x4x8x8--float16--tensorrt-rtx-1.7.1.116--sm86+sm89--{KEY.digest[:12]}"
    )


@pytest.mark.parametrize("text", ["", "sm", "../x", "SM89", "sm89+", "a/b", "sm89 "])
def test_a_target_that_could_lead_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a target"):
        replace(KEY, target=text)
    assert target_of_place(f"{text}-{'0' * 16}") is None


def test_a_place_tells_its_target() -> None:
    assert target_of_place(KEY.place) == "sm86+sm89"
    assert target_of_place(replace(KEY, target="cpu-x86-64-avx2-0123abcd").place) == "cpu-x86-64-avx2-0123abcd"
    assert is_digest(KEY.base)
    assert not is_digest(KEY.base.upper())


def test_rows_are_taken_within_every_range() -> None:
    assert [rows for rows in range(12) if KEY.takes_rows(rows)] == list(range(1, 9))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_has_no_one_json_is_no_part_of_a_key(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|part of a key"):
        canonical({"member": value})


def test_a_range_whose_shapes_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        TensorRange("latents", "float16", (1, 4), (9, 4), (8, 4))
    with pytest.raises(ValueError, match="axes"):
        TensorRange("latents", "float16", (1,), (1, 4), (8, 4))
