"""What is known of a stream's past."""

from sdstream.clock import ManualClock
from sdstream.streams.events import EventLog
from sdstream.streams.past import Past


def test_an_error_that_is_over_leaves_what_another_cause_noted_since() -> None:
    clock = ManualClock()
    past = Past("str_1", EventLog("str_1", clock), clock)
    past.note_error("MODELS/UNAVAILABLE", "no model")
    past.note_error("WORKER/UNAVAILABLE", "the worker ended")
    past.forget_error("no model")
    assert past.error == "the worker ended"
    past.forget_error("the worker ended")
    assert (past.error, past.error_at) == (None, None)
