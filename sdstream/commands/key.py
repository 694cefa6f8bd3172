"""`sdstream key`: make, list and revoke the bearer keys of the REST API.

A running server notices the change: it reads keys.json again.
"""

import sys
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from sdstream.api.keys import KeyRing
from sdstream.commands.flags import with_settings
from sdstream.directories import choose_data_directory
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

key = App(name="key", help="Make, list and revoke the keys of the REST API.", help_format="plaintext")


@key.default
@with_settings(only=("data_dir",))
def make(
    *,
    name: Annotated[str, Parameter(help="What the key is for, shown in lists.")] = "command line",
    settings: Settings,
) -> int:
    """Make a key and print it; it cannot be shown again. The first key of a data directory sees every stream."""
    print(_open(settings).create(name))
    print("Send it as `Authorization: Bearer KEY`. It is not stored and cannot be shown again.", file=sys.stderr)
    return 0


@key.command(name="list")
@with_settings(only=("data_dir",))
def show(*, settings: Settings) -> int:
    """List the keys: id, name, author, time. The keys themselves are not stored."""
    table = Table("id", "name", "author", "made", "sees", box=None)
    for entry in _open(settings).entries():
        sees = "every stream" if entry.operator else "its own streams"
        table.add_row(entry.id, entry.name, entry.author, entry.created_at or "in the settings", sees)
    if table.row_count:
        width = None if sys.stdout.isatty() else 200  # a pipe has no width; nothing may be cut off there
        Console(width=width, highlight=False, markup=False).print(table)
    else:
        print("There is no key yet: the first `sdstream serve` makes one.")
    return 0


@key.command
@with_settings(only=("data_dir",))
def revoke(
    key_id: Annotated[str, Parameter(name="ID", help="The id that `sdstream key list` shows.")],
    /,
    *,
    settings: Settings,
) -> int:
    """Forget a key: requests with it are answered 401 from now on."""
    ring = _open(settings)
    if not ring.revoke(key_id):
        fixed = any(entry.id == key_id and not entry.created_at for entry in ring.entries())
        raise ConfigurationError(
            f"the key {key_id} is in the settings, take it out there" if fixed else f"no key has the id {key_id}",
            hint="`sdstream key list` shows every id.",
        )
    print(f"{key_id} is revoked")
    return 0


def _open(settings: Settings) -> KeyRing:
    return KeyRing.open(choose_data_directory(settings).prepare(), settings)


__all__ = ["key"]
