"""At which commit a repository is asked for, and which of its files: the pinned ones where something is pinned."""

from collections.abc import Callable, Iterable

from sdstream.diffusion.fetching.hub import Listing, Progress, RevisionUnknown, list_repository
from sdstream.diffusion.fetching.pins import Pin
from sdstream.diffusion.fetching.selection import RemoteFile

Choose = Callable[[str, Iterable[RemoteFile]], tuple[RemoteFile, ...]]
"""Picks files of a repository, of all that it holds. Raises `ModelUnavailable`, naming what it lacks."""


def ask(
    repository: str, revision: str | None, pin: Pin | None, choose: Choose, progress: Progress
) -> tuple[Listing, tuple[RemoteFile, ...]]:
    """What the hub has, and the chosen files with the hashes that they must have.

    A pinned commit that the hub no longer has is only an address: where the newest one offers the very weights that are
    pinned, it is taken, and `progress` is told. Raises `ModelNotAsPinned` where it offers others or where there are no
    hashes to tell, else `ModelUnavailable` of the kind that fits.
    """
    progress(f"asking the hub for {repository}", None)
    if pin is None:
        listing = list_repository(repository, revision)
        return listing, choose(repository, listing.files)
    try:
        listing = list_repository(repository, pin.commit or revision)
    except RevisionUnknown as error:
        listing = list_repository(repository, revision)
        files = choose(repository, listing.files)
        if not pin.knows(files):
            raise pin.refusal(
                f"{repository} no longer has the commit {pin.commit[:10]}, which {pin.author} pins, and nothing says "
                f"that its newest one, {listing.commit[:10]}, holds the same weights"
            ) from error
        progress(
            f"{repository} no longer has the pinned commit {pin.commit[:10]}; {listing.commit[:10]} has the very "
            "weights that are pinned, and is taken",
            None,
        )
    else:
        files = choose(repository, listing.files)
    return listing, pin.hold(repository, files)


__all__ = ["Choose", "ask"]
