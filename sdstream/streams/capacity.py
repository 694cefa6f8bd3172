"""How much more this server takes: what its streams ask of the worker, by what calls were measured to take.

Streams of one kind ride in one call of the worker, so one more of them costs what a larger call takes longer, and the
first of a kind a call of its own. Nothing here is guessed: what was not measured yet refuses nobody, and a stream that
is alone is taken whatever it costs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sdstream.errors import CapacityReached
from sdstream.params import StreamParams
from sdstream.params.costs import COSTS
from sdstream.params.preparation import nearest_side
from sdstream.settings import Settings
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.stream import Stream
from sdstream.streams.views import Capacity, KindCapacity
from sdstream.worker.ports import CallCost, CallKind, WorkerHealth, WorkerPhase, kind_of

MOST_LOAD = 1.0
"""The share of the worker's time that may be promised."""
MOST_MEMORY = 0.95
"""The share of the device's memory that may be in use."""
MOST_ROOM = 64
"""So many further streams of one kind are counted."""
WORKER_FULL = "End a stream or take a smaller one; SDSTREAM_STREAM_FRAME_RATE is what each is promised, 0 for nothing."


@dataclass(frozen=True, slots=True)
class Demand:
    """What one stream asks of the worker: calls of `kind`, `rate` times a second."""

    kind: CallKind
    rate: float


@dataclass(frozen=True, slots=True)
class Supply:
    """What the worker has: measured calls, how many streams ride in one, and the device's memory in bytes."""

    costs: Sequence[CallCost] = ()
    batch_size: int = 8
    memory_used: int | None = None
    memory_total: int | None = None


def seconds_of(cost: CallCost, streams: int, batch_size: int) -> float:
    """How long it takes to make one picture of each of `streams`; 0 for none.

    Between two measured sizes of calls it is on the line between them, above the largest on the line through the two
    largest, and never less than the largest took. With one size measured, larger calls are taken to be as slow for
    each stream. Below the smallest nothing is gained.
    """
    whole, rest = divmod(streams, batch_size)
    return whole * _call_seconds(cost.seconds, batch_size) + _call_seconds(cost.seconds, rest)


def _call_seconds(measured: Mapping[int, float], streams: int) -> float:
    if streams == 0 or not measured:
        return 0.0
    if streams in measured:
        return measured[streams]
    sizes = sorted(measured)
    below = [size for size in sizes if size < streams]
    above = [size for size in sizes if size > streams]
    if not below:
        return measured[above[0]]
    if not above and len(below) == 1:
        return measured[below[0]] * streams / below[0]
    low, high = (below[-1], above[0]) if above else (below[-2], below[-1])
    slope = (measured[high] - measured[low]) / (high - low)
    line = measured[low] + slope * (streams - low)
    return line if above else max(line, measured[high])


def find_cost(kind: CallKind, costs: Iterable[CallCost]) -> CallCost | None:
    """What calls of this kind take, or else those of the same model nearest in size, scaled by pixels and steps.

    Of processors alone the same ones are looked for first; what networks take is scaled by their declared operations,
    while of others one says nothing of another.
    """
    same = [cost for cost in costs if cost.kind.model_id == kind.model_id and cost.seconds]
    if not kind.model_id:
        others = [cost for cost in same if _counted(cost.kind)] if _counted(kind) else []
        same = [cost for cost in same if cost.kind.processors == kind.processors] or others
    exact = next((cost for cost in same if cost.kind == kind), None)
    if exact is not None or not same:
        return exact
    nearest = min(same, key=lambda cost: abs(_work(cost.kind) - _work(kind)))
    factor = _work(kind) / _work(nearest.kind)
    seconds = {streams: value * factor for streams, value in nearest.seconds.items()}
    return CallCost(kind, seconds, int(nearest.stream_bytes * factor))


def _counted(kind: CallKind) -> bool:
    """Whether the declared operations of its processors tell how long they take."""
    return bool(kind.processors) and all(COSTS[name].has_network and COSTS[name].gigaflops for name in kind.processors)


def _work(kind: CallKind) -> float:
    declared = sum(COSTS[name].gigaflops for name in kind.processors) if _counted(kind) else 0.0
    return float(kind.width * kind.height) * (declared or max(kind.steps, 1))


def load_of(demands: Iterable[Demand], supply: Supply) -> float:
    """The share of the worker's time that these streams ask for; 1 is all of it. What was not measured counts 0."""
    rates: dict[CallKind, list[float]] = {}
    for demand in demands:
        rates.setdefault(demand.kind, []).append(demand.rate)
    total = 0.0
    for kind, members in rates.items():
        cost = find_cost(kind, supply.costs)
        if cost is None:
            continue
        # All ride as often as the slowest has a picture, all but that one as often as the next has one more, ...
        slower = 0.0
        for index, rate in enumerate(sorted(members)):
            total += (rate - slower) * seconds_of(cost, len(members) - index, supply.batch_size)
            slower = rate
    return total


def why_not(newcomer: Demand, demands: Sequence[Demand], supply: Supply) -> str:
    """Why one more stream would not fit beside those of `demands`, in a sentence with numbers; empty when it would."""
    if not demands:
        return ""
    before, after = load_of(demands, supply), load_of([*demands, newcomer], supply)
    if after > MOST_LOAD and after > before:
        return (
            f"One more stream ({newcomer.kind.described}) at {newcomer.rate:g} pictures a second would ask for "
            f"{after:.0%} of the worker's time; {_count(len(demands))} now {_ask(len(demands))} for {before:.0%}."
        )
    used, total = supply.memory_used, supply.memory_total
    if used is None or total is None:
        return ""
    cost = find_cost(newcomer.kind, supply.costs)
    needed = 0 if cost is None else cost.stream_bytes
    if used + needed > MOST_MEMORY * total:
        return (
            f"One more stream ({newcomer.kind.described}) needs {_megabytes(needed)} of memory, and "
            f"{_megabytes(used)} of {_megabytes(total)} are in use."
        )
    return ""


def why_not_change(before: Demand, after: Demand, others: Sequence[Demand], supply: Supply) -> str:
    """Why a stream that asks for `before` cannot ask for `after` beside `others`, in a sentence; empty when it can.

    Whatever asks for less, or is alone, can.
    """
    if not others or before.kind == after.kind:
        return ""
    now, then = load_of([*others, before], supply), load_of([*others, after], supply)
    if then > MOST_LOAD and then > now:
        return (
            f"As {after.kind.described} at {after.rate:g} pictures a second this stream would have all streams ask for "
            f"{then:.0%} of the worker's time; now they ask for {now:.0%}."
        )
    used, total = supply.memory_used, supply.memory_total
    if used is None or total is None:
        return ""
    costs = [find_cost(kind, supply.costs) for kind in (before.kind, after.kind)]
    held, needed = (0 if cost is None else cost.stream_bytes for cost in costs)
    if needed > held and used - held + needed > MOST_MEMORY * total:
        return (
            f"As {after.kind.described} this stream needs {_megabytes(needed)} of memory where it has "
            f"{_megabytes(held)}, and {_megabytes(used)} of {_megabytes(total)} are in use."
        )
    return ""


def room_for(newcomer: Demand, demands: Sequence[Demand], supply: Supply) -> int:
    """How many more streams of this kind would fit, 0 to `MOST_ROOM`."""
    taken = list(demands)
    for room in range(MOST_ROOM):
        if why_not(newcomer, taken, supply):
            return room
        taken.append(newcomer)
    return MOST_ROOM


def nearest_that_fits(wanted: CallKind, fits: Callable[[CallKind], bool], *, resizable: bool = True) -> CallKind | None:
    """The largest kind below `wanted` that `fits`: fewer steps of its model, and with `resizable` smaller pictures of
    about its shape. None where none does."""
    sizes = list(_sizes_from(wanted)) if resizable else [(wanted.width, wanted.height)]
    steps = range(1, wanted.steps + 1) if wanted.model_id else [wanted.steps]
    lesser = [replace(wanted, width=w, height=h, steps=n) for w, h in sizes for n in steps]
    return next((kind for kind in sorted(lesser, key=_work, reverse=True) if kind != wanted and fits(kind)), None)


def _sizes_from(kind: CallKind) -> Iterator[tuple[int, int]]:
    """The sizes of a kind's shape that streams may have, its own and smaller."""
    longer, shorter = max(kind.width, kind.height), min(kind.width, kind.height)
    for long in range(longer, 0, -64):
        short = nearest_side(long * shorter / longer)
        if nearest_side(long) == long and short <= long:
            yield (long, short) if kind.width >= kind.height else (short, long)


def _advice(kind: CallKind | None) -> str:
    """What could be asked for in place of what was refused, to be put behind the reason."""
    return "" if kind is None else f" It would fit as {kind.described}."


def _count(streams: int) -> str:
    return f"{streams} stream{'' if streams == 1 else 's'}"


def _ask(streams: int) -> str:
    return "asks" if streams == 1 else "ask"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def demands_of(streams: Iterable[Stream], rate: float) -> list[Demand]:
    """What the streams that publish now ask for: as many pictures as they send, `rate` at most."""
    return [_demand_of(stream, stream.saved.params, rate) for stream in streams if stream.is_publishing]


def _demand_of(stream: Stream, params: StreamParams, rate: float) -> Demand:
    sent = stream.input_rate
    return Demand(kind_of(params), min(rate, sent) if sent > 0 else rate)


def supply_of(settings: Settings, health: WorkerHealth) -> Supply:
    """What the worker has by its last words."""
    return Supply(health.costs, settings.batch_size, health.memory_used, health.memory_total)


def worker_full(streams: StreamDirectory, settings: Settings, health: WorkerHealth, params: StreamParams) -> str:
    """Why the worker cannot carry one more stream of these params, in a sentence; empty when it can."""
    rate, wanted = settings.stream_frame_rate, kind_of(params)
    if rate == 0:
        return ""
    demands, supply = demands_of(streams, rate), supply_of(settings, health)
    reason = why_not(Demand(wanted, rate), demands, supply)
    if not reason:
        return ""
    return reason + _advice(nearest_that_fits(wanted, lambda kind: not why_not(Demand(kind, rate), demands, supply)))


def worker_full_after(
    streams: Iterable[Stream], settings: Settings, health: WorkerHealth, stream: Stream, params: StreamParams
) -> str:
    """Why the worker cannot carry `stream` with these params instead of its own, in a sentence; empty when it can.

    A stream that nobody publishes to is looked at when somebody does.
    """
    rate = settings.stream_frame_rate
    if rate == 0 or not stream.is_publishing:
        return ""
    others, supply = demands_of((each for each in streams if each is not stream), rate), supply_of(settings, health)
    before, after = (_demand_of(stream, each, rate) for each in (stream.accepted.params, params))
    reason = why_not_change(before, after, others, supply)
    if not reason:
        return ""

    def fits(kind: CallKind) -> bool:
        is_more = kind.model_id != before.kind.model_id or kind.steps > before.kind.steps
        return is_more and not why_not_change(before, replace(after, kind=kind), others, supply)

    # Nobody can change the size of a stream that is published to.
    return reason + _advice(nearest_that_fits(after.kind, fits, resizable=False))


def refuse_overload(
    streams: StreamDirectory,
    settings: Settings,
    health: WorkerHealth,
    params: StreamParams,
    stream: Stream | None = None,
) -> None:
    """Raises `CapacityReached` when the worker cannot carry one more stream of these params, or `stream` with them."""
    given = streams, settings, health
    if reason := worker_full(*given, params) if stream is None else worker_full_after(*given, stream, params):
        raise CapacityReached(reason, hint=WORKER_FULL)


def describe_capacity(
    streams: StreamDirectory,
    settings: Settings,
    health: WorkerHealth,
    busy_since: float,
    *,
    closing: bool,
    default: StreamParams,
) -> Capacity:
    """For `GET /v1/capacity`. `busy_since` is the monotonic second from which on a use counts, `default` are the params
    of a stream that asks for nothing in particular."""
    rate = settings.stream_frame_rate
    demands, supply = demands_of(streams, rate), supply_of(settings, health)
    reason = _why_closed(streams, health, busy_since, closing) or worker_full(streams, settings, health, default)
    present = Counter(demand.kind for demand in demands)
    return Capacity(
        streams=streams.count_busy(busy_since),
        max_streams=settings.max_streams,
        publishing=sum(stream.is_publishing for stream in streams),
        viewers=sum(stream.viewers for stream in streams),
        max_viewers=settings.max_viewers,
        accepting=not reason,
        reason=reason,
        worker_phase=health.phase.value,
        device=health.device,
        memory_used=health.memory_used,
        memory_total=health.memory_total,
        frame_rate=rate,
        load=round(load_of(demands, supply), 4),
        kinds=tuple(
            KindCapacity(
                cost.kind.model_id,
                cost.kind.width,
                cost.kind.height,
                cost.kind.steps,
                list(cost.kind.processors),
                present[cost.kind],
                {str(size): round(seconds, 5) for size, seconds in sorted(cost.seconds.items())},
                room_for(Demand(cost.kind, rate), demands, supply) if rate else None,
            )
            for cost in health.costs
        ),
    )


def _why_closed(streams: StreamDirectory, health: WorkerHealth, busy_since: float, closing: bool) -> str:
    """Why no stream of any kind is accepted; empty when one is."""
    if closing:
        return "The server is shutting down."
    if health.phase in (WorkerPhase.FAILED, WorkerPhase.STOPPED):
        return f"The worker does not run: {health.last_error or 'see the log'}."
    return streams.crowd(busy_since) or streams.glut()


__all__ = [
    "Demand",
    "Supply",
    "demands_of",
    "describe_capacity",
    "find_cost",
    "load_of",
    "nearest_that_fits",
    "refuse_overload",
    "room_for",
    "seconds_of",
    "supply_of",
    "why_not",
    "why_not_change",
    "worker_full",
    "worker_full_after",
]
