"""The documentation against what it describes: nothing missing, nothing made up, no dead link."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sdstream import engine_errors, errors, file_errors, install_errors, job_errors, model_errors
from sdstream.cli import COMMANDS, make_application
from sdstream.commands.flags import flag_name, variable_name
from sdstream.engines.events import EngineEventKind
from sdstream.media.embedded.counters import DROP_REASONS
from sdstream.metrics import ServerStatistics
from sdstream.params import IMAGE_PROCESSORS, LATENT_PROCESSORS, parameter_catalogue
from sdstream.reachability import PORT_VARIABLES
from sdstream.settings import Settings
from sdstream.turn_settings import WebRtcMode
from tests.project import runpod_page, settings_page
from tests.support.server import LiveServer

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
CLIENT_PACKAGES = ROOT / "tests/clients/node_modules"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: str, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(read(page)) if kind == language]


def error_classes() -> Iterator[type[errors.SdstreamError]]:
    found = [
        pair
        for module in (errors, engine_errors, model_errors, job_errors, file_errors, install_errors)
        for pair in inspect.getmembers(module, inspect.isclass)
    ]
    for member in dict(found).values():
        if issubclass(member, errors.SdstreamError):
            yield member


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as hosting sites make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def test_the_page_of_settings_is_current() -> None:
    assert read("docs/settings.md") == settings_page.page(), "run python -m tests.project.settings_page"


@pytest.mark.parametrize("name", runpod_page.PAGES)
def test_the_settings_on_runpods_pages_are_current(name: str) -> None:
    page = read(name)
    assert page == runpod_page.written(name, page), "run python -m tests.project.runpod_page"


def test_runpods_page_has_the_ports_and_files_that_there_are() -> None:
    page = read("docs/runpod.md")
    assert f"| {Settings().turn_port} | `{Settings().turn_port}/tcp`" in page
    assert f"| {Settings().port} | `{Settings().port}/http`" in page
    for mode in get_args(WebRtcMode):
        assert f"`{mode}`" in page
    for variable in (*PORT_VARIABLES.values(), "RUNPOD_POD_ID", "RUNPOD_PUBLIC_IP", "RUNPOD_API_KEY"):
        assert f"`{variable}`" in page


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    assert Settings.model_fields[name].description
    assert f"`{variable_name(name)}`" in read("docs/settings.md")
    assert f"`{flag_name(name)}`" in read("docs/settings.md")


def test_every_variable_that_a_page_names_exists() -> None:
    known = {variable_name(name) for name in Settings.model_fields} | {"SDSTREAM_CONFIG"}
    named = {
        (name_of(page), variable)
        for page in PAGES
        if page.name != "design.md"  # it names what is planned, too
        for variable in re.findall(r"\bSDSTREAM_[A-Z_]*[A-Z]\b", page.read_text("utf-8"))
    }
    assert {entry for entry in named if entry[1] not in known} == set()


def test_every_parameter_is_described() -> None:
    words = set(re.findall(r"`([^`]+)`", read("docs/parameters.md")))
    names = [entry["name"] for entry in parameter_catalogue()]
    assert len(names) > 50
    # a processor's `type` is described by the list of processors, which the next test looks at
    described = words | {name for name in names if name.endswith(".processors[].type")}
    assert [name for name in names if not {name, name.rpartition(".")[2]} & described] == []


def test_every_processor_is_described() -> None:
    words = set(re.findall(r"`([^`]+)`", read("docs/parameters.md")))
    assert [name for name in (*IMAGE_PROCESSORS, *LATENT_PROCESSORS) if name not in words] == []


def test_every_error_code_is_described() -> None:
    page = read("docs/errors.md")
    codes = {member.code for member in error_classes() if issubclass(member, errors.RequestError)}
    assert {code for code in codes if f"`{code}`" not in page} == set()


def drawn_errors() -> Iterator[tuple[str, str, str]]:
    """Of each error in the tree at the top of `errors`: its name, its parent's, and what stands behind it."""
    above: list[str] = []
    for marks, name, rest in re.findall(r"^ {4}([ │├└─]*)(\w+)(.*)$", errors.__doc__ or "", re.MULTILINE):
        depth = len(marks) // 4
        above[depth:] = [name]
        yield name, above[depth - 1] if depth else "Exception", rest


def test_every_error_class_is_in_the_tree() -> None:
    drawn = [(name, parent) for name, parent, _ in drawn_errors()]
    assert sorted(drawn) == sorted((member.__name__, member.__bases__[0].__name__) for member in error_classes())


def test_the_tree_has_the_status_and_the_code_of_every_error_that_is_answered() -> None:
    found = {name: rest.split() for name, _, rest in drawn_errors()}
    kinds = [member for member in error_classes() if issubclass(member, errors.RequestError)]
    right = {kind.__name__: [str(kind.status), kind.code] for kind in kinds if kind is not errors.RequestError}
    right["TooManyRequests"] = ["429"]  # only its leaves are raised
    assert {name: found[name] for name in right} == right


def test_every_reason_for_a_drop_and_every_event_of_engines_is_described() -> None:
    page = read("docs/metrics.md")
    assert [name for name in (*DROP_REASONS, *get_args(EngineEventKind)) if f"`{name}`" not in page] == []


def test_every_metric_is_described() -> None:
    page = read("docs/metrics.md")
    named = set(re.findall(r'"(sdstream_[a-z0-9_]+)"', Path(inspect.getfile(ServerStatistics)).read_text("utf-8")))
    assert named
    assert {name for name in named if name not in page} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described(name: str) -> None:
    assert f"## `sdstream {name}`" in read("docs/cli.md")
    assert name in read("README.md")


def test_every_command_that_a_page_shows_can_be_parsed() -> None:
    application = make_application()
    shown = [
        (name_of(page), line)
        for page in PAGES
        for kind, text in FENCE.findall(page.read_text("utf-8"))
        if kind == "bash"
        for line in re.findall(r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?sdstream (.+)$", text, re.MULTILINE)
    ]
    assert len(shown) > 10
    for page, line in shown:
        tokens = [token.strip('"') for token in re.findall(r'"[^"]*"|\S+', line.partition(" #")[0])]
        try:
            application.parse_args(tokens, exit_on_error=False, print_error=False)
        except Exception as error:  # noqa: BLE001 - whichever error it is, the page is wrong
            pytest.fail(f"{page}: sdstream {line}: {error}")


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = make_targets()
    assert {"run", "test", "check", "bench", "clean"} <= targets
    for page in PAGES:
        for target in re.findall(r"^make (\w+)|`make (\w+)", page.read_text("utf-8"), re.MULTILINE):
            assert (target[0] or target[1]) in targets, name_of(page)


def test_continuous_integration_runs_the_same_targets() -> None:
    assert "make test" in read(".ci/run")
    assert ".ci/run" in read(".github/workflows/ci.yml")
    assert "artifacts/" in read(".github/workflows/ci.yml")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text("utf-8")))
        found = {(page.parent / link).resolve() for link in links if link.endswith(".md") and "://" not in link}
        waiting += [target for target in found - reached if target.exists()]
    assert {name_of(page) for page in PAGES} - {name_of(page) for page in reached} == set()


@pytest.mark.parametrize("number", [0, 1])
def test_the_python_snippets_run(server: LiveServer, number: int) -> None:
    program = snippets("docs/clients/python.md", "python")[number]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DAYDREAM_URL": server.url, "DAYDREAM_BEARER": server.key},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert ("whip" if number == 0 else "OFFLINE") in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_snippet_makes_a_stream(server: LiveServer) -> None:
    program = snippets("docs/clients/browser.md", "bash")[0]
    assert "http://127.0.0.1:8080/" in program
    done = subprocess.run(
        ["bash", "-c", program.replace("http://127.0.0.1:8080/", f"{server.url}/")],
        env={**os.environ, "DAYDREAM_BEARER": server.key},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    stream = json.loads(done.stdout)
    assert stream["params"]["image_postprocessing"]["processors"][0]["type"] == "canny"
    assert stream["warnings"] == []


@pytest.mark.node
@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.skipif(not CLIENT_PACKAGES.is_dir(), reason="the npm packages of tests/clients are not installed")
def test_the_typescript_snippet_runs(server: LiveServer) -> None:
    (program,) = snippets("docs/clients/typescript.md", "typescript")
    program = program.replace('"@daydreamlive/sdk"', '"sdk-with-zod-newest"')  # the name it is installed under here
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", program],
        cwd=CLIENT_PACKAGES.parent,
        env={**os.environ, "DAYDREAM_URL": server.url, "DAYDREAM_BEARER": server.key},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert "/whip" in done.stdout
