"""What the server knows of its workers, over their ends."""

from sdstream.worker.messages import Pong
from sdstream.worker.ports import WorkerPhase
from sdstream.worker.server_end.record import WorkerRecord


def pong(calls: int) -> Pong:
    return Pong(1, 0.0, None, 0.0, 10, 20, [], {2: calls}, {2: calls / 4}, {"built": calls})


def test_what_an_ended_worker_has_counted_stays_and_what_it_said_of_itself_does_not() -> None:
    record = WorkerRecord()
    record.pong, record.start_seconds = pong(4), 3.0
    record.begin()
    between = record.health(WorkerPhase.STARTING, 1, None)
    assert (between.calls, between.engine_events, between.memory_used) == ({2: 4}, {"built": 4}, None)
    assert between.start_seconds is None
    record.pong = pong(1)
    after = record.health(WorkerPhase.READY, 1, 7)
    assert (after.calls, after.call_seconds, after.engine_events) == ({2: 5}, {2: 1.25}, {"built": 5})
    assert after.memory_used == 10
