"""A repository of the hub, fetched into `models`: it appears when it is whole, with a note of where it came from."""

import json
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sdstream.diffusion.fetching.commits import Choose, ask
from sdstream.diffusion.fetching.hub import Listing, Progress, fetch_files, only_one
from sdstream.diffusion.fetching.pins import MANIFEST, find_pin
from sdstream.model_errors import ModelUnavailable

PARTIAL = ".partial"
"""Below `models`: what is being fetched."""
HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubId:
    """A repository of the hub, at one revision or at the newest."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, source: str) -> "HubId | None":
        """The id that `source` is, None when it cannot be one."""
        match = HUB_ID.fullmatch(source)
        if match is None or ".." in source:
            return None
        return cls(match["repository"], match["revision"])

    @property
    def folder(self) -> str:
        """The name of its directory below `models`."""
        revision = "" if self.revision is None else f"@{self.revision.replace('/', '--')}"
        return self.repository + revision


def fetch_repository(
    hub_id: HubId, root: Path, choose: Choose, progress: Progress, *, shipped_pins: bool = False
) -> Path:
    """Fetch the files that `choose` picks into `root/OWNER/NAME`, which appears when it is whole.

    Where they are pinned, by the operator or with `shipped_pins` by sdstream, it is the pinned commit, and no other
    bytes. Raises `ModelNotAsPinned` where the hub has something else, and what `sources.get_model` raises.
    """
    pin = find_pin(hub_id.folder, root, shipped=shipped_pins)
    listing, files = ask(hub_id.repository, hub_id.revision, pin, choose, progress)
    target = root / hub_id.folder
    if target.exists() and not read_manifest(target):
        raise ModelUnavailable(f"{target} was not fetched by sdstream, so it is left as it is")
    flat = hub_id.folder.replace("/", "--")
    with only_one(root / PARTIAL / f"{flat}.lock", hub_id.repository, progress):
        if read_manifest(target).get("commit") == listing.commit:
            fetch_files(listing, files, target, progress)
        else:
            folder = root / PARTIAL / f"{flat}.{listing.commit}"
            fetch_files(listing, files, folder, progress)
            _write_manifest(folder, hub_id, listing)
            _put(folder, target)
    return target


def _put(folder: Path, target: Path) -> None:
    """Make `folder` the directory at `target`; what was there goes when the new one stands."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = folder.with_name(f"old-{uuid.uuid4().hex}")
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _write_manifest(folder: Path, hub_id: HubId, listing: Listing) -> None:
    content = {"repository": hub_id.repository, "revision": hub_id.revision, "commit": listing.commit}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """What is written down of a directory that was fetched; empty of any other."""
    try:
        content: Any = json.loads((path / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def commit_of(path: Path) -> str:
    """Which commit of its repository a directory holds, empty when nobody wrote that down."""
    if path.parent.name == "snapshots":
        return path.name
    return str(read_manifest(path).get("commit", ""))


__all__ = ["PARTIAL", "HubId", "commit_of", "fetch_repository", "read_manifest"]
