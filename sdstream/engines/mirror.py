"""Engines in an S3 bucket: pushed by who bakes them, pulled by whoever needs one. Any S3, RunPod's volumes included.

An engine's objects are `PREFIX/BASE/PLACE/FILE`, its manifest is written last and read first: an engine without one is
not there. What is pulled is compared with the manifest's hashes before it becomes an entry of a cache. A pull or push
that breaks off is gone on with by the next.
"""

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdstream.buckets import BucketAccess, bucket_errors, error_code, error_status, is_missing, make_bucket_client
from sdstream.engine_errors import EngineBroken, EngineMissing, EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Accepts, Entry, anything
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.keys import capabilities_of, is_digest, target_of_place
from sdstream.engines.locks import BuildLock
from sdstream.engines.manifest import LARGEST_MANIFEST, MANIFEST, Manifest, check_files
from sdstream.engines.uploads import PART, Uploads
from sdstream.errors import ConfigurationError
from sdstream.urls import check_bucket_endpoint, split_bucket

READ_TIMEOUT = 120.0
ATTEMPTS = 10
BLOCK = 1024 * 1024
HINT = (
    "Look at SDSTREAM_ENGINE_MIRROR, its _ENDPOINT and _REGION, and the access keys (AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY); what was begun is taken up again by the same command."
)

Progress = Callable[[str, int, int], None]
"""Told the file, its bytes so far, and its size."""


def no_progress(name: str, done: int, size: int) -> None:
    """A `Progress` for callers that show none."""


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """An engine in the bucket; its manifest is not read yet."""

    base: str
    place: str

    @property
    def target(self) -> str:
        return target_of_place(self.place) or ""

    @property
    def capabilities(self) -> frozenset[int]:
        return capabilities_of(self.target)


@dataclass(frozen=True, slots=True)
class MirrorAddress:
    """Where the mirror is: `s3://bucket/prefix`, at `endpoint` where it is not Amazon's."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, url: str, endpoint: str | None = None, region: str | None = None) -> "MirrorAddress":
        """The place that settings name, which are checked. Raises `ValueError` for what is no such address."""
        bucket, prefix = split_bucket(url)
        return cls(bucket, prefix, None if endpoint is None else check_bucket_endpoint(endpoint), region or None)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class EngineMirror:
    """The engines of one bucket. Credentials come from where boto3 looks: variables, files, the machine's role.

    Every call raises `EngineStoreUnavailable` when the bucket cannot be reached, refuses, or breaks off.
    """

    def __init__(
        self,
        address: MirrorAddress,
        *,
        report: Report = say_nothing,
        part: int = PART,
        attempts: int = ATTEMPTS,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        """Raises `ConfigurationError` when boto3 is not installed."""
        self.address = address
        self._report = report
        self._client = make_client(address, attempts, read_timeout)
        self._uploads = Uploads(self._client, address.bucket, part)

    def list(self, base: str | None = None) -> list[RemoteEngine]:
        """Every engine in the bucket, or those of one base."""
        prefix = self._name(f"{base}/" if base else "")
        found: list[RemoteEngine] = []
        with self._failures("listing"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.address.bucket, Prefix=prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    parts = item["Key"].removeprefix(self._name("")).split("/")
                    if len(parts) == 3 and parts[2] == MANIFEST and is_digest(parts[0]) and target_of_place(parts[1]):
                        found.append(RemoteEngine(parts[0], parts[1]))
        return sorted(found, key=lambda engine: (engine.base, engine.place))

    def manifests(self, base: str | None = None) -> Iterator[tuple[RemoteEngine, Manifest]]:
        """Every engine in the bucket, or of one base, with its manifest. One whose manifest is broken or went meanwhile
        is reported and left out."""
        for engine in self.list(base):
            try:
                manifest = self.manifest(engine)
            except (EngineBroken, EngineMissing) as error:
                self._report(EngineEvent("broken", engine.place, error.message))
            else:
                yield engine, manifest

    def find(self, base: str, accepts: Accepts = anything) -> RemoteEngine | None:
        """An engine of `base` that `accepts`; None when the bucket has none. One with a broken manifest is left out."""
        return next((engine for engine, manifest in self.manifests(base) if accepts(manifest.key)), None)

    def manifest(self, engine: RemoteEngine) -> Manifest:
        """Read an engine's manifest. Raises `EngineMissing` or `EngineBroken`."""
        key = self._object(engine, MANIFEST)
        with self._failures(key):
            try:
                answer = self._client.get_object(Bucket=self.address.bucket, Key=key)
            except self._client.exceptions.ClientError as error:
                if is_missing(error):
                    raise EngineMissing(f"{self.address} has no {engine.base[:12]} for {engine.target}") from error
                raise
            data: bytes = answer["Body"].read(LARGEST_MANIFEST + 1)
        manifest = Manifest.parse(data, f"{self.address}: {key}")
        if (manifest.key.base, manifest.key.place) != (engine.base, engine.place):
            raise EngineBroken(f"{self.address}: {key} is the manifest of another engine")
        return manifest

    def push(self, cache: EngineCache, entry: Entry, progress: Progress = no_progress) -> bool:
        """Copy an engine into the bucket, whole before its manifest; False when it is there already.

        The entry is compared with its manifest first. Raises `EngineBroken` when it differs; nothing is pushed then.
        """
        engine = RemoteEngine(entry.key.base, entry.key.place)
        if not cache.verify(entry):
            raise EngineBroken(f"{entry.name} is broken and is not pushed")
        try:
            there = self.manifest(engine)
        except (EngineMissing, EngineBroken):
            there = None
        if there is not None and there.files == entry.manifest.files and self._is_whole(engine, there):
            return False
        with self._failures(entry.name):
            for name, record in entry.manifest.files.items():
                key = self._object(engine, name)
                notes = cache.directory / ".uploads" / f"{entry.key.digest[:16]}-{name}.json"
                self._uploads.put(entry.file(name), key, record, notes, progress)
            self._client.put_object(
                Bucket=self.address.bucket, Key=self._object(engine, MANIFEST), Body=entry.manifest.dump()
            )
        self._report(EngineEvent("pushed", entry.name, str(self.address)))
        return True

    def pull(self, engine: RemoteEngine, cache: EngineCache, progress: Progress = no_progress) -> Entry:
        """Copy an engine into a cache. Raises `EngineMissing` or `EngineBroken` for what is not whole in the bucket.

        Files that broke off are gone on with where they ended; one that changed in the bucket begins anew.
        """
        manifest = self.manifest(engine)
        there = cache.take(engine.base, lambda key: key.digest == manifest.key.digest)
        if there is not None:
            return there
        cache.require_room(manifest.size)
        # Who else pulls the same has a draft of its own; only the first goes on with what broke off.
        lock = BuildLock(cache.directory / ".locks" / f"pull-{manifest.key.digest}.lock")
        held = lock.try_acquire()
        try:
            with cache.draft(f"pull-{manifest.key.digest[:32]}" if held else None) as draft:
                self._fill(draft, engine, manifest, progress)
                entry = cache.adopt(draft, manifest)
        finally:
            lock.release()
        self._report(EngineEvent("fetched", entry.name, f"from {self.address}"))
        return entry

    def remove(self, engine: RemoteEngine) -> None:
        """Remove an engine, its manifest first. One by one: RunPod's S3 has no call for many."""
        with self._failures(engine.base):
            prefix = self._object(engine, "")
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.address.bucket, Prefix=prefix)
            keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
            for key in sorted(keys, key=lambda name: not name.endswith(f"/{MANIFEST}")):
                self._client.delete_object(Bucket=self.address.bucket, Key=key)

    def _fill(self, draft: Path, engine: RemoteEngine, manifest: Manifest, progress: Progress) -> None:
        """Have every file in `draft`, compared with the manifest."""
        resumed = any(draft.iterdir())
        for name, record in manifest.files.items():
            self._download(self._object(engine, name), draft / name, record.size, progress)
        try:
            check_files(draft, manifest)
        except (EngineBroken, FileNotFoundError) as error:
            for file in draft.iterdir():
                file.unlink()
            if resumed:  # the half that was there may be of an engine that was replaced since
                self._fill(draft, engine, manifest, progress)
                return
            self._report(EngineEvent("broken", manifest.key.readable, f"in {self.address}: {error}"))
            raise EngineBroken(f"{self.address} holds a broken {manifest.key.readable}: {error}") from error

    def _download(self, key: str, file: Path, size: int, progress: Progress) -> None:
        with self._failures(key):
            try:
                have = file.stat().st_size if file.exists() else 0
                if have > size:
                    have = 0
                if have == size and size > 0:
                    return
                wanted: dict[str, Any] = {"Range": f"bytes={have}-"} if have else {}
                answer = self._client.get_object(Bucket=self.address.bucket, Key=key, **wanted)
                with file.open("r+b" if have else "wb") as target:
                    target.seek(have)
                    for block in answer["Body"].iter_chunks(BLOCK):
                        target.write(block)
                        have += len(block)
                        progress(file.name, have, size)
                        if have > size:
                            raise EngineBroken(f"{self.address}: {key} is longer than its manifest says")
                    target.truncate()
            except self._client.exceptions.ClientError as error:
                if is_missing(error):
                    raise EngineBroken(f"{self.address}: {key} is missing beside its manifest") from error
                raise
        if have != size:
            raise EngineStoreUnavailable(f"{self.address}: {key} ended after {have} of {size} bytes")

    def _is_whole(self, engine: RemoteEngine, manifest: Manifest) -> bool:
        with self._failures(engine.base):
            return all(
                self._uploads.size(self._object(engine, name)) == record.size for name, record in manifest.files.items()
            )

    def _name(self, path: str) -> str:
        return f"{self.address.prefix}/{path}" if self.address.prefix else path

    def _object(self, engine: RemoteEngine, file: str) -> str:
        return self._name(f"{engine.base}/{engine.place}/{file}")

    @contextmanager
    def _failures(self, what: str) -> Generator[None]:
        """Turn what boto3, the network and the disk raise into the one error that callers expect."""
        try:
            yield
        except (*bucket_errors(), OSError) as error:
            words = _words(error)
            self._report(EngineEvent("store_unavailable", what, f"{self.address}: {words}"))
            raise EngineStoreUnavailable(f"{self.address}: {what}: {words}", hint=HINT) from error


def make_client(address: MirrorAddress, attempts: int, read_timeout: float) -> Any:
    """boto3's client for a mirror. Raises `ConfigurationError` without boto3, and for what boto3 does not take."""
    access = BucketAccess(address.endpoint, address.region, attempts=attempts, read_timeout=read_timeout)
    try:
        known = bucket_errors()
    except ImportError:
        raise ConfigurationError(
            "a mirror of engines needs boto3", hint="pip install -c constraints.txt -e '.[s3]' in sdstream's directory"
        ) from None
    try:
        return make_bucket_client(access)
    except (*known, ValueError) as error:
        raise ConfigurationError(f"the mirror {address} cannot be used: {error}") from error


def _words(error: Exception) -> str:
    response: Any = getattr(error, "response", None)
    if response is None:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return re.sub(r"(https?://[^/\"\s]+)/[^\"\s]*", r"\1", text)[:300]  # of an object, which is named before
    status = error_status(error)
    if status == 507:
        return "the volume is full (507)"
    return f"{error_code(error) or status}: {response.get('Error', {}).get('Message', '')}"[:300]


__all__ = ["EngineMirror", "MirrorAddress", "Progress", "RemoteEngine", "make_client", "no_progress"]
