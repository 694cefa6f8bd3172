"""What holds for every stream and every update, found by hypothesis."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdstream.errors import InvalidParams
from sdstream.params import (
    ChangeKind,
    ModelTable,
    StreamParams,
    apply_update,
    classify,
    dump_params,
    load_params,
    parse_create,
    wire_params,
)
from sdstream.params.change import HOT_FIELDS, HOT_MEMBERS
from sdstream.params.controlnets import CONTROLNETS, controlnet_ids
from sdstream.params.envelope import PARAMETER_NAMES
from sdstream.params.processors import IMAGE_PROCESSORS, ProcessorParameter
from sdstream.params.variants import VARIANTS
from sdstream.params.vocabulary import WeightType
from sdstream.settings import Family
from tests.params.requests import PUBLIC_IDS

MODELS = ModelTable()
# No deadline and no health check: the time of one example says how busy the machine is, not how good the code.
often = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALE = st.floats(0, 2)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["tensorrt", "canny", "linear", "upscale", *PUBLIC_IDS, *CONTROLNETS]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(max_size=10) | st.sampled_from(["model_id", "type", "enabled", "params", "processors", "scale"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "pipeline": JSON,
        "name": JSON,
        "output_rtmp_url": JSON,
        "pipeline_id": JSON,
        "params": JSON | st.dictionaries(st.sampled_from(sorted(PARAMETER_NAMES)), JSON, max_size=8),
        "pipeline_params": JSON,
        "prompt": JSON,
    },
)


def _processor_value(parameter: ProcessorParameter) -> st.SearchStrategy[Any]:
    match parameter.type:
        case "boolean":
            return st.booleans()
        case "choice":
            return st.sampled_from(parameter.choices)
        case "integer":
            return st.integers(int(parameter.minimum or 0), int(parameter.maximum or 0))
        case "number":
            return st.floats(parameter.minimum, parameter.maximum)


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """A good block of image processors that keeps the size of the picture."""
    names = [name for name, kind in IMAGE_PROCESSORS.items() if not kind.scales_output]
    chosen = draw(st.lists(st.sampled_from(names), max_size=3))
    processors = [
        {
            "type": name,
            "enabled": draw(st.booleans()),
            "params": draw(
                st.fixed_dictionaries(
                    {}, optional={known.name: _processor_value(known) for known in IMAGE_PROCESSORS[name].parameters}
                )
            ),
        }
        for name in chosen
    ]
    return {"enabled": draw(st.booleans()), "processors": processors}


def good_params(family: Family) -> st.SearchStrategy[dict[str, Any]]:
    """Good members of `params` for `family`, any of them absent; whatever is drawn fits together."""
    ids = controlnet_ids(family)[:3]
    controlnets = st.lists(st.sampled_from(ids), max_size=3, unique=True).flatmap(
        lambda names: st.tuples(
            *(
                st.fixed_dictionaries(
                    {"model_id": st.just(name)},
                    optional={
                        "conditioning_scale": SCALE,
                        "enabled": st.booleans(),
                        "preprocessor": st.sampled_from(["canny", "blur"]),
                    },
                )
                for name in names
            )
        ).map(list)
    )
    members: dict[str, st.SearchStrategy[Any]] = {
        "prompt": TEXT | st.lists(st.tuples(TEXT.filter(bool), st.floats(0.1, 2)).map(list), min_size=1, max_size=3),
        "negative_prompt": TEXT,
        "guidance_scale": st.floats(0, 20),
        "delta": st.floats(0, 1),
        "seed": st.integers(0, 2**53 - 1),
        "t_index_list": st.lists(st.integers(0, 40), min_size=1, max_size=4).map(sorted),
        "num_inference_steps": st.integers(40, 100),
        "normalize_prompt_weights": st.booleans(),
        "use_safety_checker": st.booleans(),
        "acceleration": st.sampled_from(["none", "xformers", "tensorrt"]),
        "do_add_noise": st.booleans(),
        "skip_diffusion": st.booleans(),
        "enable_similar_image_filter": st.booleans(),
        "width": st.sampled_from(range(384, 1025, 64)),
        "height": st.sampled_from(range(384, 1025, 64)),
        "lora_dict": st.none() | st.dictionaries(TEXT.filter(bool), SCALE, max_size=2),
        "image_preprocessing": blocks(),
        "image_postprocessing": blocks(),
        "controlnets": controlnets,
    }
    if family != "sd-turbo":
        members["ip_adapter"] = st.fixed_dictionaries(
            {},
            optional={
                "enabled": st.booleans(),
                "scale": SCALE,
                "weight_type": st.sampled_from(list(WeightType.__args__)),
            },
        )
        members["cached_attention"] = st.fixed_dictionaries(
            {"enabled": st.just(False)}, optional={"max_frames": st.integers(1, 4), "interval": st.integers(1, 1440)}
        )
    return st.fixed_dictionaries({}, optional=members)


@st.composite
def streams(draw: st.DrawFn) -> StreamParams:
    """Any good stream of any public model."""
    model_id = draw(st.sampled_from(PUBLIC_IDS))
    entry = MODELS.get(model_id)
    assert entry is not None
    sent = draw(good_params(entry.family))
    return parse_create({"params": {"model_id": model_id, **sent}}, MODELS).params


@st.composite
def updates(draw: st.DrawFn) -> tuple[StreamParams, dict[str, Any]]:
    """A good stream, and a good update of it."""
    stream = draw(streams())
    return stream, draw(good_params(stream.family))


@often
@given(updates())
def test_the_same_update_twice_is_the_same_as_once(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    once = apply_update(stream, {"params": sent}, MODELS).params
    assert apply_update(once, {"params": sent}, MODELS).params == once


@often
@given(updates())
def test_what_is_absent_stays_unchanged(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    before, after = wire_params(stream), wire_params(apply_update(stream, {"params": sent}, MODELS).params)
    assert {name for name in before if before[name] != after[name]} <= set(sent) | {"t_index_list"}


@often
@given(updates())
def test_what_is_sent_is_in_force(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    after = wire_params(apply_update(stream, {"params": sent}, MODELS).params)
    plain = [name for name in sent if not isinstance(sent[name], dict | list)]
    assert {name: after[name] for name in plain} == {name: sent[name] for name in plain}


@often
@given(updates())
def test_merged_parameters_written_and_read_are_the_same(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    merged = apply_update(stream, {"params": sent}, MODELS).params
    wire = json.loads(json.dumps(wire_params(merged), allow_nan=False))
    assert parse_create({"params": wire}, MODELS).params == merged
    assert apply_update(stream, {"params": wire}, MODELS).params == merged
    assert load_params(dump_params(merged), MODELS) == merged


@often
@given(streams())
def test_a_stream_is_unchanged_against_itself(stream: StreamParams) -> None:
    assert classify(stream, stream.model_copy(deep=True), live=True).kind is ChangeKind.UNCHANGED


@often
@given(updates())
def test_hot_changes_touch_only_what_is_declared_hot(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    after = apply_update(stream, {"params": sent}, MODELS).params
    change = classify(stream, after, live=True)
    assert set(change.fields) == {name for name, value in after if value != getattr(stream, name)}
    if change.kind is ChangeKind.HOT:
        assert set(change.fields) <= HOT_FIELDS | set(HOT_MEMBERS)
        assert all(_differs_only_in(stream, after, name, HOT_MEMBERS[name]) for name in HOT_MEMBERS)


def _differs_only_in(old: StreamParams, new: StreamParams, name: str, hot: frozenset[str]) -> bool:
    before, after = wire_params(old).get(name, {}), wire_params(new).get(name, {})
    if not isinstance(before, list):
        return _differing(before, after) <= hot
    entries, others = ({net["model_id"]: net for net in nets} for nets in (before, after))
    both = entries.keys() & others.keys()
    alone = [net for net in (*before, *after) if net["model_id"] not in both]
    return not any(net["enabled"] and net["conditioning_scale"] for net in alone) and all(
        _differing(entries[model_id], others[model_id]) <= hot for model_id in both
    )


def _differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one if one[key] != other[key]}


@often
@given(updates())
def test_a_size_never_changes_while_live(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    after = apply_update(stream, {"params": sent}, MODELS).params
    refused = classify(stream, after, live=True).kind is ChangeKind.REFUSED
    assert refused == (stream.output_size != after.output_size)


@often
@given(updates())
def test_live_matters_only_to_what_is_refused(case: tuple[StreamParams, dict[str, Any]]) -> None:
    stream, sent = case
    after = apply_update(stream, {"params": sent}, MODELS).params
    live, idle = classify(stream, after, live=True), classify(stream, after, live=False)
    assert idle.kind == (ChangeKind.RELOAD if live.kind is ChangeKind.REFUSED else live.kind)


@often
@given(updates(), st.sampled_from(PUBLIC_IDS))
def test_every_stream_can_change_to_every_model(case: tuple[StreamParams, dict[str, Any]], model_id: str) -> None:
    stream, _ = case
    after = apply_update(stream, {"params": {"model_id": model_id}}, MODELS).params
    entry = MODELS.get(model_id)
    assert entry is not None
    assert (after.model_id, type(after)) == (model_id, VARIANTS[entry.family])


def refused(call: Callable[[], Any]) -> InvalidParams | None:
    """The refusal of `call`, None when it went through; any other error ends the test."""
    try:
        call()
    except InvalidParams as error:
        return error
    return None


def assert_is_sendable(error: InvalidParams) -> None:
    """The refusal has details of the promised shape, and all of it can go out as JSON."""
    assert error.details
    assert all(set(detail) == {"field", "problem", "suggestion"} for detail in error.details)
    json.dumps([error.message, error.details], allow_nan=False, ensure_ascii=False).encode()


@often
@given(JSON | BODIES)
def test_any_create_body_is_taken_or_refused_in_words(body: Any) -> None:
    error = refused(lambda: parse_create(body, MODELS))
    if error is not None:
        assert_is_sendable(error)
        return
    request = parse_create(body, MODELS)
    answer = [wire_params(request.params), request.name, request.delivery.dump(), request.warnings]
    json.dumps(answer, allow_nan=False, ensure_ascii=False).encode()


@often
@given(streams(), JSON | BODIES)
def test_any_update_body_is_taken_or_refused_in_words(stream: StreamParams, body: Any) -> None:
    before = dump_params(stream)
    error = refused(lambda: apply_update(stream, body, MODELS))
    if error is not None:
        assert_is_sendable(error)
    else:
        update = apply_update(stream, body, MODELS)
        assert classify(stream, update.params, live=True).kind in ChangeKind
        json.dumps([wire_params(update.params), update.warnings], allow_nan=False, ensure_ascii=False).encode()
    assert dump_params(stream) == before


@often
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_clamping_takes_any_size_that_is_a_number(width: float, height: float) -> None:
    params = parse_create({"params": {"width": width, "height": height}}, MODELS, size_policy="clamp").params
    assert {params.width, params.height} <= set(range(384, 1025, 64))


@often
@given(st.text())
def test_any_stored_text_is_read_or_refused(text: str) -> None:
    error = refused(lambda: load_params(text, MODELS))
    assert error is not None
    assert_is_sendable(error)
