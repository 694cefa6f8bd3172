"""The checks of `sdstream doctor` of what earlier runs left in the data directory: keys and streams."""

from sdstream.api.keys import KeyRing
from sdstream.commands.checks import Check, Verdict
from sdstream.directories import choose_data_directory
from sdstream.errors import ConfigurationError
from sdstream.params import ModelTable
from sdstream.settings import Settings
from sdstream.streams.holding import is_held
from sdstream.streams.kept import read_kept

MOST_NAMED = 3
"""Streams that are named one by one."""


def check_keys(settings: Settings) -> Check:
    """Whether the keys can be read; the server does not start without that."""
    try:
        count = len(KeyRing.open(choose_data_directory(settings).absolute_path, settings).entries())
    except ConfigurationError as error:
        return Check("keys", Verdict.BAD, error.message, _hint(error, "Make keys.json readable, or restore it."))
    return Check("keys", Verdict.GOOD, f"{count} known" if count else "none yet; the first start makes one")


def check_streams(settings: Settings) -> Check | None:
    """Whether the streams of earlier runs can be read; None while a server has them open, which has read them."""
    path = choose_data_directory(settings).absolute_path
    try:
        models = ModelTable.from_settings(settings)
    except ConfigurationError:  # of which the check of models speaks
        return None
    try:
        if is_held(path):
            return None
        kept = read_kept(path, models)
    except OSError:  # a data directory that cannot be looked into, of which its own check speaks
        return None
    except ConfigurationError as error:
        return Check(
            "streams",
            Verdict.BAD,
            error.message,
            _hint(error, "See to its owner and permissions; if it is damaged, restore it or move it away."),
        )
    if not kept.unrestored:
        return Check("streams", Verdict.GOOD, f"{kept.count} kept" if kept.count else "none kept")
    named = "; ".join(f"{name}: {problem}" for name, problem in kept.unrestored[:MOST_NAMED])
    more = ", ..." if len(kept.unrestored) > MOST_NAMED else ""
    finding = f"{len(kept.unrestored)} of {kept.count} cannot be restored: {named}{more}"
    remedy = "Requests for them are answered 404. They stay in state.sqlite, for a version or settings that take them."
    return Check("streams", Verdict.NOTE, finding, remedy)


def _hint(error: ConfigurationError, otherwise: str) -> str:
    """Its own; the one that all such errors have sends to the doctor."""
    return otherwise if error.hint == ConfigurationError.hint else error.hint


__all__ = ["check_keys", "check_streams"]
