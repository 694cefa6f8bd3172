"""Render jobs: a file in, a file out, whole or not at all; and what is no file that can be rendered."""

import base64
import io
import os
from pathlib import Path
from typing import Any

import av
import httpx
import numpy
import pytest
from PIL import Image

from sdstream.client import RunPodClient
from sdstream.commands.stamp import read_stamp
from sdstream.job_errors import InvalidJob, JobFailed, SourceRefused
from sdstream.jobs.inputs import Job, RenderInput, Source
from sdstream.jobs.sources import fetch_source
from sdstream.media.files.reader import VideoReader
from sdstream.settings import Settings
from tests.jobs.bucket import BUCKET, EXPIRED_ID, FakeBucket
from tests.jobs.test_worker import Running, fail
from tests.project.test_render import TIMES, film, sound_packets  # noqa: F401 -- film is a fixture
from tests.support.waiting import eventually

PASS = {"skip_diffusion": True}


def duration(path: Path) -> float:
    with av.open(str(path)) as container:
        assert container.duration is not None
        return container.duration / av.time_base


def left_in(folder: Path) -> list[str]:
    """Folders of render jobs; the server's own state is beside them."""
    return [name for name in os.listdir(folder) if "render" in name]


@pytest.fixture
def film_url(film: Path, bucket: FakeBucket) -> str:  # noqa: F811
    """The film behind a link, as the bucket signs them."""
    bucket.objects["film.mp4"] = film.read_bytes()
    return f"{bucket.url}/{BUCKET}/film.mp4?X-Amz-Credential=good-key"


async def test_a_video_keeps_its_pictures_times_and_sound(
    client: RunPodClient,
    bucket: FakeBucket,
    film: Path,  # noqa: F811
    film_url: str,
    tmp_path: Path,
    worker_temporary: Path,
) -> None:
    running = Running(
        client,
        await client.submit(
            {"action": "render", "source": {"url": film_url}, "params": PASS}, s3_config=bucket.config()
        ),
    )
    rendered = await running.wait("rendered", seconds=60)
    await running.end()
    progress = [event for event in running.events if event["event"] == "progress"]
    assert progress[-1]["frames"] == rendered["frames"] == len(TIMES)
    assert progress[-1]["percent"] == 100
    result = rendered["result"]
    assert (result["type"], result["content_type"]) == ("s3_url", "video/mp4")
    assert result["key"] == f"sdstream/{running.job_id}/result.mp4"
    assert "s3cret" not in str(running.events)
    out = tmp_path / "out.mp4"
    async with httpx.AsyncClient() as http:
        out.write_bytes((await http.get(result["data"])).content)
    with VideoReader(out) as reader:
        pictures = list(reader.pictures())
    assert [read_stamp(picture.y) for picture in pictures] == list(range(len(TIMES)))
    assert sound_packets(out) == sound_packets(film)
    assert abs(duration(out) - duration(film)) < 0.05
    assert not any("x-amz-checksum-crc32" in str(headers).lower() for headers in bucket.headers)
    assert left_in(worker_temporary) == []


async def test_a_bucket_can_be_the_source_too(client: RunPodClient, bucket: FakeBucket, film_url: str) -> None:
    job_input = {
        "action": "render",
        "source": {"s3": "film.mp4"},
        "params": PASS,
        "target": {"type": "s3", "key": "mine/out.mkv"},
        "format": "mkv",
    }
    rendered = await client.run(job_input, s3_config=bucket.config(), seconds=60)
    assert rendered["result"]["key"] == "mine/out.mkv"
    assert bucket.objects["mine/out.mkv"].startswith(b"\x1aE\xdf\xa3")


def png(width: int, height: int) -> str:
    noise = numpy.random.default_rng(1).integers(0, 255, (height, width, 3), numpy.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


async def test_a_picture_is_diffused_by_a_one_shot_job(client: RunPodClient) -> None:
    warm = await client.run({"action": "warm", "params": {"width": 384, "height": 384}}, seconds=60)
    assert (warm["event"], warm["model_id"]) == ("warm", "stabilityai/sd-turbo")
    job_input = {
        "action": "render",
        "source": {"base64": f"data:image/png;base64,{png(400, 390)}"},
        "params": {"prompt": "a fox", "t_index_list": [20], "seed": 1},
        "format": "jpg",
    }
    first, second = [(await client.run(job_input, seconds=60))["result"] for _ in range(2)]
    picture = Image.open(io.BytesIO(base64.b64decode(first["data"])))
    assert (picture.format, picture.size) == ("JPEG", (384, 384))
    assert first["data"] == second["data"]


async def test_a_result_that_does_not_fit_the_answer_is_refused_or_goes_to_the_bucket(
    client: RunPodClient, bucket: FakeBucket
) -> None:
    job_input: dict[str, Any] = {
        "action": "render",
        "source": {"base64": png(640, 640)},
        "params": PASS | {"width": 640, "height": 640},
    }
    assert (await fail(client, job_input)).error_code == "JOBS/RESULT_TOO_LARGE"
    rendered = await client.run(job_input, s3_config=bucket.config(), seconds=60)
    assert rendered["result"]["type"] == "s3_url"
    assert len(bucket.objects[rendered["result"]["key"]]) == rendered["result"]["bytes"] > 700_000


async def test_what_cannot_be_rendered_is_told_by_a_code(
    client: RunPodClient, bucket: FakeBucket, worker_temporary: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    bucket.objects["large.mp4"] = os.urandom(3_000_001)
    base = f"{bucket.url}/{BUCKET}"
    without_weights = {"image_postprocessing": {"processors": [{"type": "hed"}]}}
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        ({"source": {"base64": "bm8gdmlkZW8="}}, None, "JOBS/NOT_MEDIA"),
        ({"source": {"base64": base64.b64encode(playlist.encode()).decode()}}, None, "JOBS/NOT_MEDIA"),
        ({"source": {"base64": "%%%"}}, None, "JOBS/SOURCE_REFUSED"),
        ({"source": {"url": f"{base}/large.mp4?X-Amz-Credential=good-key"}}, None, "JOBS/SOURCE_REFUSED"),
        ({"source": {"url": f"{base}/nothing.mp4?X-Amz-Credential=good-key"}}, None, "JOBS/SOURCE_REFUSED"),
        ({"source": {"url": "file:///etc/passwd"}}, None, "JOBS/SOURCE_REFUSED"),
        ({"source": {"url": "x", "base64": "x"}}, None, "JOBS/INVALID_INPUT"),
        ({"source": {"s3": "film.mp4"}}, None, "JOBS/INVALID_INPUT"),
        ({"source": {"s3": "no-such.mp4"}}, "good-key", "JOBS/SOURCE_REFUSED"),
        ({"source": {"base64": png(64, 64)}}, EXPIRED_ID, "JOBS/STORAGE_FAILED"),
        ({"source": {"base64": png(64, 64)}, "format": "mp4"}, None, "JOBS/NOT_MEDIA"),
        ({"source": {"base64": png(64, 64)}, "target": {"type": "s3"}}, None, "JOBS/INVALID_INPUT"),
        ({"source": {"base64": png(64, 64)}, "params": {"prompt": 5}}, None, "STREAMS/INVALID_PARAMS"),
        ({"source": {"base64": png(64, 64)}, "params": PASS | without_weights}, None, "MODELS/UNAVAILABLE"),
    ]
    for members, key_id, code in cases:
        config = None if key_id is None else bucket.config(key_id)
        failure = await fail(client, {"action": "render", "params": PASS} | members, s3_config=config)
        assert failure.error_code == code, (members, failure)
        assert "s3cret" not in str(failure)
        if key_id == EXPIRED_ID:
            assert "ExpiredToken" in str(failure)
    assert left_in(worker_temporary) == []


async def test_private_addresses_are_refused_unless_the_operator_lets_them(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1/x.mp4", "http://[::1]/x.mp4", "http://169.254.169.254/latest", "http://10.0.0.1/x"):
        job = Job("job", RenderInput(action="render", source=Source(url=url)))
        assert isinstance(job.input, RenderInput)
        with pytest.raises(SourceRefused, match="no public address"):
            await fetch_source(job, job.input.source, tmp_path / "source", Settings())
    assert sum(entry.stat().st_size for entry in os.scandir(tmp_path)) == 0


async def test_a_source_in_a_bucket_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUCKET_ENDPOINT_URL", raising=False)
    job = Job("job", RenderInput(action="render", source=Source(s3="x.mp4")))
    with pytest.raises(InvalidJob, match="no bucket"):
        await fetch_source(job, Source(s3="x.mp4"), tmp_path / "source", Settings())


async def test_cancelling_a_render_leaves_nothing(
    client: RunPodClient, bucket: FakeBucket, film_url: str, worker_temporary: Path
) -> None:
    bucket.holding.clear()
    bucket.hold.set()
    job_id = await client.submit(
        {"action": "render", "source": {"url": film_url}, "params": PASS}, s3_config=bucket.config()
    )
    await eventually(bucket.holding.is_set, seconds=60, what="the upload")
    await client.cancel(job_id)
    await eventually(
        lambda: not [name for name in left_in(worker_temporary) if "render" in name], what="the end of the job's folder"
    )
    bucket.hold.clear()
    with pytest.raises(JobFailed) as failed:
        await client.result(job_id)
    assert failed.value.error_code == "CANCELLED"
