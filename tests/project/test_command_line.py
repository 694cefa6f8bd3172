"""Exit codes, messages, and settings as flags."""

import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sdstream.cli import COMMANDS, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, run
from sdstream.commands.flags import flag_name, sources_of, with_settings
from sdstream.errors import ConfigurationError
from sdstream.platform import WINDOWS
from sdstream.settings import Settings, load_settings
from tests.project.commands import environment, sdstream

FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SDSTREAM_{name.upper()}", raising=False)
    monkeypatch.delenv("SDSTREAM_CONFIG", raising=False)
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_a_ctrl_c_while_the_program_is_still_imported_shows_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text("raise KeyboardInterrupt\n")
    done = sdstream("doctor", environment=environment(tmp_path / "data") | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_INTERRUPTED, "", "")


def test_the_installed_program_is_the_one_that_minds_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"sdstream": "sdstream.__main__:main"}


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_the_help_of_a_command_is_all_that_it_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["deploy", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "with the key in RUNPOD_API_KEY" in text
    assert "A pod costs money from its start until it is stopped" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: sdstream" in text
    assert "--empty-" not in text, "a list is empty when its flag is not given"


def test_serve_has_a_flag_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in Settings.model_fields if flag_name(name) not in text] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sevre"], "serve"),
        (["serve", "--prot", "1"], "--port"),
        (["serve", "--port", "x"], "--port: must be a whole number, not 'x'"),
        (["serve", "--port", "70000"], "--port: must be at most 65535, not 70000"),
        (["serve", "--video-encoder", "nvnc"], "nvenc"),
        (["serve", "--tuned-convolutions", "maybe"], "--tuned-convolutions takes no value such as 'maybe'"),
        (["serve", "--tuned-convolutions=maybe"], "--tuned-convolutions: must be true or false, not 'maybe'"),
        (["doctor", "twice"], "'twice' is a word too many; `sdstream doctor --help`"),
        (["serve", "--port", "1", "1"], "'1' is a word too many"),
        (["serve", "--port=1", "twice"], "'twice' is a word too many"),
        (["serve", "--models", "{"], "--models: must be a JSON object"),
        (["serve", "--host", "0.0.0.0", "--no-authentication"], "loopback"),
        (["serve", "--host", "198.51.100.1", "--port", "0"], "not an address of this machine"),
        (["serve", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (
            ["doctor", "--recording-bucket", "http://x"],
            "--recording-bucket: must be written s3://BUCKET or s3://BUCKET/",
        ),
        (
            ["doctor", "--recording-bucket-endpoint", "minio:9000"],
            "--recording-bucket-endpoint: must be the address of",
        ),
        (["doctor", "--recording-bucket", "s3://a@b/c"], "--recording-bucket: must be written s3://BUCKET or "),
        (["publish", "testsrc", "--url", "nowhere"], "--url"),
        (["publish", "testsrc", "--url", "http://127.0.0.1:1/", "--fps", "0"], "--fps"),
        (["publish", "testsrc", "--url", "http://a", "--width", "2.5"], "--width: must be a whole number, not '2.5'"),
        (["deploy", "pod", "--image", "a/b:1", "--gpu-count", "1.5"], "--gpu-count: must be a whole number, not '1.5'"),
        (["deploy", "pod", "--image", "a/b:1", "--tcp", "80", "--tcp", "80.5"], "--tcp: must be a whole number"),
        (["publish"], "FILE"),
        (["render", "in.mp4", "out"], "no ending"),
        (["bench", "--streams", "1,none"], "--streams: 'none' is no number between 1 and 64"),
        (["bench", "--seconds", "0"], "--seconds"),
        (["bench", "--warm-up", "-1"], "--warm-up"),
        (["bench", "--width", "100"], "width: must be a multiple of 64"),
        (["key", "revoke", "nothing"], "nothing"),
    ],
)
def test_a_wrong_command_line_is_told_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == EXIT_USAGE
    assert words in said(capsys)


def test_an_unknown_variable_stops_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDSTREAM_MAX_STREEMS", "3")
    assert run(["serve", "--port", "0"]) == EXIT_USAGE
    assert "SDSTREAM_MAX_STREEMS is not a setting of sdstream; did you mean SDSTREAM_MAX_STREAMS?" in said(capsys)


def test_every_wrong_value_is_told_with_the_place_where_it_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("update_rate: 3.5\napi_keys: {sds_secret: 1}\n")
    monkeypatch.setenv("SDSTREAM_OFFLINE", "perhaps")
    assert run(["serve", "--port", "x", "--config", str(file)]) == EXIT_USAGE
    text = said(capsys)
    assert f"update_rate in {file}: must be at least 30, not 3.5" in text
    assert "SDSTREAM_OFFLINE: must be true or false, not 'perhaps'" in text
    assert "--port: must be a whole number" in text
    assert f"api_keys in {file}: " in text
    assert "sds_secret" not in text


@pytest.mark.parametrize("name", ["engine_limit_gigabytes", "session_max_seconds", "endpoint_start_timeout"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e400"])
def test_no_setting_is_endless(name: str, value: str) -> None:
    variable = f"SDSTREAM_{name.upper()}"
    with pytest.raises(ConfigurationError, match=f"^{variable}: must be a finite number, not '{value}'$"):
        load_settings(environment={variable: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("endpoint", "../other", "must be an endpoint's id"),
        ("endpoint", "a b", "must be an endpoint's id"),
        ("runpod_api_key", "s3cret ä", "must be a key"),
        ("runpod_api_key", "s3cret\nEvil: 1", "must be a key"),
        ("runpod_api_url", "s3cret", "must be an address that begins with http:// or https://"),
        ("runpod_api_url", "http://[", "must be an address"),
        ("runpod_api_url", "http://h:99999", "must be an address"),
        ("redis_url", "http://:s3cret@h", "must be an address that begins with redis:// or rediss:// or unix://"),
        ("redis_url", "redis://:s3cret@h:99999/0", "must be an address"),
        ("redis_url", "redis://[s3cret", "must be an address"),
        ("redis_url", "s3cret", "must be an address"),
        *[
            (name, address, "must be written s3://BUCKET or s3://BUCKET/PREFIX")
            for name in ("engine_mirror", "recording_bucket")
            for address in (
                "engines",
                "http://bucket/x",
                "s3://",
                "s3://key:s3cret@bucket/x",
                "s3://b/x?s3cret",
                "s3://[",
                "s3://b:99999/x",
            )
        ],
        *[
            (name, address, "must be the address of an S3 service")
            for name in ("engine_mirror_endpoint", "recording_bucket_endpoint")
            for address in (
                "s3api-eu-ro-1.runpod.io",
                "http://[",
                "http://h:99999",
                "http://h:0",
                "https://",
                "https://key:s3cret@h",
            )
        ],
    ],
)
def test_what_cannot_be_used_is_told_at_once_and_without_what_may_be_secret(name: str, value: str, words: str) -> None:
    variable = f"SDSTREAM_{name.upper()}"
    with pytest.raises(ConfigurationError, match=f"^{variable}: {words}") as refused:
        load_settings(environment={variable: value})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://:p@h:6380/0", "unix:///run/redis.sock", "redis://[::1]:6379"])
def test_addresses_of_redis_are_taken(url: str) -> None:
    found = load_settings(environment={"SDSTREAM_REDIS_URL": url}).redis_url
    assert found is not None
    assert found.get_secret_value() == url


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:0,1", "cpu:0"])
def test_no_worker_is_started_for_a_device_that_is_none(device: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^SDSTREAM_WORKER_DEVICE: must be auto, cpu, mps, cuda or "):
        load_settings(environment={"SDSTREAM_WORKER_DEVICE": device})


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
def test_devices_of_a_worker_are_taken(device: str) -> None:
    assert load_settings(environment={"SDSTREAM_WORKER_DEVICE": device}).worker_device == device


def test_a_key_is_taken_without_the_line_break_of_its_file() -> None:
    found = load_settings(environment={"SDSTREAM_RUNPOD_API_KEY": "rpa_key\n"}).runpod_api_key
    assert found is not None
    assert found.get_secret_value() == "rpa_key"


def test_an_unknown_name_in_the_file_stops_with_the_one_that_was_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max_streems: 2\n")
    assert run(["serve", "--port", "0", "--config", str(file)]) == EXIT_USAGE
    assert f"max_streems in {file} is not a setting of sdstream; did you mean max_streams?" in said(capsys)


@pytest.mark.parametrize("place", ["/dev/null/data", "/proc/data"])
def test_a_data_directory_that_cannot_be_written_is_told_at_start(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--port", "0", "--data-dir", place]) == EXIT_USAGE
    assert f"the data directory {place} cannot be used" in said(capsys)


def test_a_flag_beats_a_variable_and_a_variable_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\nmax_streams: 2\nmax_viewers: 3\n")
    monkeypatch.setenv("SDSTREAM_MAX_STREAMS", "20")
    monkeypatch.setenv("SDSTREAM_PORT", "10")
    seen: dict[str, Any] = {}

    @with_settings()
    def command(*, settings: Settings, sources: dict[str, str]) -> None:
        seen.update(settings=settings, sources=sources)

    command(port="100", config=file)
    settings, sources = seen["settings"], seen["sources"]
    assert (settings.port, settings.max_streams, settings.max_viewers) == (100, 20, 3)
    assert [sources[name] for name in ("port", "max_streams", "max_viewers", "host")] == [
        "--port",
        "SDSTREAM_MAX_STREAMS",
        str(file),
        "default",
    ]


def test_the_source_of_an_empty_variable_is_the_default() -> None:
    assert sources_of({}, {"SDSTREAM_PORT": ""}, None)["port"] == "default"


def test_flags_replace_the_settings_argument_of_a_command() -> None:
    @with_settings(only=("port",))
    def command(name: str, /, *, settings: Settings) -> None: ...

    assert list(inspect.signature(command).parameters) == ["name", "port", "config"]


def test_openapi_prints_the_document_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["openapi"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["openapi"].startswith("3.1")
    assert "/v1/streams" in document["paths"]


def test_keys_are_made_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "--name", "[old] phone"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("sds_")
    assert run(["key", "list"]) == 0
    listed = capsys.readouterr().out
    assert "[old] phone" in listed
    assert key not in listed
    (entry,) = [line.split()[0] for line in listed.splitlines() if "phone" in line]
    assert run(["key", "revoke", entry]) == 0
    capsys.readouterr()
    assert run(["key", "list"]) == 0
    assert "phone" not in capsys.readouterr().out


@pytest.mark.parametrize(("command", "words"), [("openapi", b""), ("key", b"Send it as")])
def test_a_reader_that_leaves_early_is_no_error(command: str, words: bytes, tmp_path: Path) -> None:
    variables = environment(tmp_path)
    variables.pop("PYTHONUNBUFFERED", None)  # with it little output is written at once, too
    process = subprocess.Popen(
        [sys.executable, "-m", "sdstream", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 1
    said = process.stderr.read()
    assert said.startswith(words)
    assert b"BrokenPipe" not in said
    process.stderr.close()


@pytest.mark.parametrize("switches", [[], ["-u"]])
@pytest.mark.parametrize("command", ["--help", "openapi", "key list"])
@pytest.mark.skipif(not FULL.exists(), reason="this system has no disk that is always full")
def test_a_full_disk_under_standard_output_is_told_in_one_line(
    command: str, switches: list[str], tmp_path: Path
) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, *switches, "-m", "sdstream", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            text=True,
            check=False,
        )
    assert done.returncode == EXIT_FAILED
    assert done.stderr == "sdstream: standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no disk that is always full")
def test_a_full_disk_under_standard_error_takes_nothing_from_the_work(tmp_path: Path) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sdstream", "models", "list"],
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment(tmp_path),
            text=True,
            check=False,
        )
    assert done.returncode == 0
    assert "stabilityai/sd-turbo" in done.stdout


@pytest.mark.skipif(WINDOWS, reason="the shell there closes nothing")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_who_closes_the_output_wants_to_see_nothing(closed: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m sdstream models list {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(tmp_path), text=True, check=False)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(WINDOWS, reason="the shell there closes nothing")
def test_notes_do_not_come_by_standard_output_where_standard_error_is_closed(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m sdstream models list 2>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, env=environment(tmp_path), text=True, check=False)
    assert done.returncode == 0
    assert "No model is here" not in done.stdout


def test_python_m_sdstream_is_the_program(tmp_path: Path) -> None:
    done = sdstream("--version", environment=environment(tmp_path))
    assert done.returncode == 0
    assert done.stdout.strip()
