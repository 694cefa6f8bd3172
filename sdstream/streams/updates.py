"""What an update does to a stream, as plain data: the pieces of `StreamService.update` that touch no stream."""

from dataclasses import fields, replace

from sdstream.errors import Conflict
from sdstream.params import Change, ChangeKind, Delivery, Update
from sdstream.streams.views import Applied, StreamRecord, UpdateOutcome
from sdstream.worker.ports import MissingPart

_APPLIED = {
    ChangeKind.UNCHANGED: Applied.UNCHANGED,
    ChangeKind.HOT: Applied.HOT,
    ChangeKind.RELOAD: Applied.RELOAD,
}


def applied_by(change: Change) -> Applied:
    """What a change that is not refused does. Raises `Conflict` for one that is."""
    if change.kind is ChangeKind.REFUSED:
        problems = [{"field": f"params.{name}", "problem": change.reason, "suggestion": None} for name in change.fields]
        raise Conflict(change.reason, details=problems)
    return _APPLIED[change.kind]


def changed_members(before: Delivery, after: Delivery) -> tuple[str, ...]:
    """The members of a delivery that differ."""
    names = (item.name for item in fields(Delivery))
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def describe_update(current: StreamRecord, record: StreamRecord, change: Change, wanted: Update) -> UpdateOutcome:
    """The answer to an update that made `record` out of `current`: a new delivery alone counts as hot."""
    members = changed_members(current.delivery, wanted.delivery)
    applied = applied_by(change)
    if members and applied is Applied.UNCHANGED:
        applied = Applied.HOT
    shown = replace(record, delivery=wanted.delivery)
    return UpdateOutcome(shown, applied, (*change.fields, *members), wanted.warnings)


def warning_of(part: MissingPart, now: float) -> str:
    """What a caller who asks for a part that is missing is told; `now` is monotonic seconds."""
    named = f" ({part.name})" if part.name else ""
    if part.next_at is None:
        when = "a later request that names it tries it again"
    else:
        wait = round(part.next_at - now)
        when = f"it is tried again in {wait} s" if wait > 0 else "it is being tried again"
    return f"params.{part.place}{named} is not in force: {part.message.removesuffix('.')}; {when}"


__all__ = ["applied_by", "changed_members", "describe_update", "warning_of"]
