"""Files into S3: small ones at once, large ones in parts that a broken-off upload is gone on with."""

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdstream.buckets import error_status, is_missing
from sdstream.engines.manifest import FileRecord, write_durably

PART = 64 * 1024 * 1024
"""Bytes of a part, and the size from which on there are parts; RunPod takes up to 500 MB in one piece."""
POLLS, POLL_SECONDS = 30, 2.0
"""How long to look for a large object whose completion was answered with a time-out by a proxy in between."""
SHA256 = "sha256"

Progress = Callable[[str, int, int], None]


class Uploads:
    """Puts files under keys of one bucket; raises what boto3 raises."""

    def __init__(self, client: Any, bucket: str, part: int = PART, poll_seconds: float = POLL_SECONDS) -> None:
        self._client = client
        self._bucket = bucket
        self._part = part
        self._poll_seconds = poll_seconds

    def size(self, key: str) -> int | None:
        """Bytes of an object, None when it is not there."""
        try:
            return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])
        except self._client.exceptions.ClientError as error:
            if is_missing(error):
                return None
            raise

    def put(self, file: Path, key: str, record: FileRecord, notes: Path, progress: Progress) -> None:
        """Put `file` under `key` unless the same is there. `notes` is where an upload in parts keeps what it did."""
        if self._is_there(key, record):
            progress(file.name, record.size, record.size)
            return
        if record.size < self._part:
            with file.open("rb") as source:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=source,
                    ContentLength=record.size,
                    Metadata={SHA256: record.sha256},
                )
            progress(file.name, record.size, record.size)
            return
        self._put_in_parts(file, key, record, notes, progress)

    def _is_there(self, key: str, record: FileRecord) -> bool:
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=key)
        except self._client.exceptions.ClientError as error:
            if is_missing(error):
                return False
            raise
        return head["ContentLength"] == record.size and head.get("Metadata", {}).get(SHA256) == record.sha256

    def _put_in_parts(self, file: Path, key: str, record: FileRecord, notes: Path, progress: Progress) -> None:
        upload, done = self._begun(key, record, notes)
        with file.open("rb") as source:
            for number in range(1, -(-record.size // self._part) + 1):
                source.seek((number - 1) * self._part)
                block = source.read(self._part)
                if done.get(number) is None:
                    answer = self._client.upload_part(
                        Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=block
                    )
                    done[number] = str(answer["ETag"])
                    _note(notes, upload, record, self._part, done)
                progress(file.name, min(number * self._part, record.size), record.size)
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in sorted(done.items())]
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except self._client.exceptions.ClientError as error:
            if error_status(error) not in (502, 503, 504, 524) or not self._appears(key, record.size):
                raise
        with contextlib.suppress(OSError):
            notes.unlink(missing_ok=True)

    def _begun(self, key: str, record: FileRecord, notes: Path) -> tuple[str, dict[int, str]]:
        """The upload to go on with and the parts that the bucket has of it; a new one when there is none."""
        try:
            known: Any = json.loads(notes.read_text("utf-8"))
            if (known["sha256"], known["part"]) == (record.sha256, self._part):
                upload = str(known["upload"])
                return upload, self._parts_there(key, upload)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        except self._client.exceptions.ClientError as error:
            if not is_missing(error):
                raise
        answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, Metadata={SHA256: record.sha256})
        upload = str(answer["UploadId"])
        _note(notes, upload, record, self._part, {})
        return upload, {}

    def _parts_there(self, key: str, upload: str) -> dict[int, str]:
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
        return {int(part["PartNumber"]): str(part["ETag"]) for page in pages for part in page.get("Parts", ())}

    def _appears(self, key: str, size: int) -> bool:
        waiting = threading.Event()
        for _ in range(POLLS):
            if self.size(key) == size:
                return True
            waiting.wait(self._poll_seconds)
        return False


def _note(notes: Path, upload: str, record: FileRecord, part: int, done: dict[int, str]) -> None:
    """Keep what an upload did; where that cannot be written, the next one begins anew."""
    content = {"upload": upload, "sha256": record.sha256, "part": part, "done": len(done)}
    with contextlib.suppress(OSError):
        notes.parent.mkdir(parents=True, exist_ok=True)
        write_durably(notes, json.dumps(content).encode("utf-8"))


__all__ = ["PART", "Uploads"]
