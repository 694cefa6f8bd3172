"""What every test may use: live servers, the SDKs, and the server's log in the report of a failure."""

import gc
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the real hub; read when huggingface_hub is imported
# Threads that wait spin otherwise, and take the cores from the other tests; read when torch is loaded, by every child.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What calls the kernels of a compiled package, a quarter of its build, proves no more for being optimized: the
# kernels are, as ever. Read when torch's compiler is imported, by every builder.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")

import pytest
from hypothesis import HealthCheck, settings

from tests.support.logs import configuration_kept
from tests.support.mediamtx import media_settings
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.shared import made_once
from tests.support.tiny import tiny_models, write_tiny_data

# How fast a busy machine is proves nothing.
settings.register_profile("sdstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sdstream")

ARTIFACTS = Path(__file__).parent.parent / "artifacts"
_servers: dict[LiveServer, int] = {}
"""Running live servers, with the size of their log when the current test began."""


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands that run in this process configure logging, to a stream that is closed with their test."""
    with configuration_kept():
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The server that most tests share. They make their own streams and must not end it or its worker."""
    yield from _serve(LiveServer(tmp_path_factory.mktemp("server"), max_streams=200, create_rate=500))


@pytest.fixture(scope="session")
def mediamtx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The same with MediaMTX; for tests marked `on_both`."""
    folder = tmp_path_factory.mktemp("mediamtx-server")
    yield from _serve(LiveServer(folder, max_streams=200, create_rate=500, **media_settings()))


@pytest.fixture(scope="session")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with tiny models of all families, their ControlNets, one of a setting too, and IP-Adapters.

    Shared, because the models take seconds to make. Of the processors' networks it has depth, and nothing is fetched.
    """
    folder = tmp_path_factory.mktemp("conditioned")
    made = made_once(
        tmp_path_factory, "conditioned", lambda draft: write_tiny_data(draft, ("sd-turbo", "sdxl-turbo", "sd15"))
    )
    models = shutil.copytree(made, folder / "data/models")
    lines = models / "lllyasviel/control_v11p_sd15_canny"
    live = LiveServer(
        folder,
        models=tiny_models(models),
        controlnets=json.dumps({"me/lines": {"source": str(lines), "family": "sd15", "preprocessor": "canny"}}),
        offline=True,
        max_streams=200,
        worker_spare=False,
        video_bitrate=20_000_000,
        environment={"HF_HUB_CACHE": str(folder / "hub")},
    )
    yield from _serve(live)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Starts a server of the test's own: `make_server(max_streams=2)`. Ended with the test."""
    made: list[LiveServer] = []

    def make(*, ready: bool = True, start: bool = True, **settings: Any) -> LiveServer:
        folder = tmp_path / f"server-{len(made)}"
        folder.mkdir()
        live = LiveServer(folder, **settings)
        made.append(live)
        _servers[live] = 0
        return live.start(ready=ready) if start else live

    yield make
    for live in made:
        if not live.process_ended:
            live.stop()


@pytest.fixture
async def rest(request: pytest.FixtureRequest) -> AsyncIterator[Rest]:
    """A plain HTTP client of the shared server, or of the one that a parameter names; deletes the test's streams."""
    async with Rest(request.getfixturevalue(getattr(request, "param", "server"))) as client:
        yield client


def _serve(live: LiveServer) -> Iterator[LiveServer]:
    _servers[live] = 0
    live.start()
    yield live
    live.stop()


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """The folder whose files are kept after a run, such as screenshots."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How the processes of `make test` share the files among them."""
    from tests.support.schedule import Schedule

    return Schedule(config, log)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Tell `make test` which tests are left for its second run."""
    path = os.environ.get("LEFT_TESTS")
    if path is None or items[0].config.getoption("markexpr") != "not alone":
        return
    draft = Path(f"{path}-{os.getpid()}")  # each process of xdist writes the same
    draft.write_text("".join(f"{item.nodeid}\n" for item in items if item.get_closest_marker("alone")), "utf-8")
    draft.replace(path)


def pytest_collection() -> None:
    """What collecting imports stays, so the collector, which would look at it again and again, waits until the end."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What the imports made stays until the end: the collector need not look at it each time, which takes a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    for live in list(_servers):
        _servers[live] = live.log_size()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        names = set(getattr(item, "fixturenames", ()))
        for live, start in _servers.items():
            if names & {"server", "make_server", "rest", "sdk", "mediamtx_server"} and (log := live.log_tail(start)):
                report.sections.append((f"log of the server at {live.url}", log))
    if report.when == "teardown":
        for live in [live for live in _servers if live.process_ended]:
            del _servers[live]
