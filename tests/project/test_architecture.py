"""What holds of the sources as a whole. The floors between the rooms are import-linter's, in pyproject.toml."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sdstream"
LONGEST_FILE, LONGEST_LINE = 400, 120
POSIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "ctypes", "mmap"}
POSIX_ONLY_NAMES = re.compile(
    r"add_signal_handler|fork|forkpty|[fl]?chown|get[e]?[ug]id|setsid|killpg|getpgid|sched_\w+|mkfifo|statvfs|getloadavg|sysconf|"
    r"sendmsg|recvmsg|AF_UNIX|epoll|pidfd_open|SIG(KILL|STOP|CONT|HUP|CHLD|ALRM|PIPE|USR[12])|O_(DIRECTORY|NOFOLLOW|"
    r"CLOEXEC|NONBLOCK|DIRECT|SYNC)"
)
"""Attributes that `os`, `signal`, `socket`, `select` and event loops have on some systems only."""
PLATFORM = "sdstream/platform/"
SERVER_SIDE = (
    "sdstream.cli",
    "sdstream.serve",
    "sdstream.commands.serve",
    "sdstream.commands.doctor",
    "sdstream.commands.publish",
    "sdstream.commands.render",
    "sdstream.commands.models",
    "sdstream.commands.engines",
    "sdstream.commands.openapi",
    "sdstream.commands.key",
    "sdstream.commands.install_mediamtx",
    "sdstream.commands.deploy",
    "sdstream.fitness",
)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def imported(file: Path) -> Iterator[str]:
    """The top-level names of every import in a file, those inside functions too."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def public_names(tree: ast.Module) -> set[str]:
    """What a module binds at its top level, imports included."""
    found: set[str] = set()
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in names}
            case ast.Try(body=body):
                found |= public_names(ast.Module(body, []))
            case _:
                pass
    return found


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    return None


def test_no_file_is_longer_than_a_person_reads_at_once() -> None:
    lengths = {name_of(file): len(file.read_text("utf-8").splitlines()) for file in sources()}
    lengths |= {file.name: len(file.read_text("utf-8").splitlines()) for file in programs_of_cards()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_no_line_of_a_program_for_a_card_is_longer_than_the_others_may_be() -> None:
    found = [
        f"{file.name}:{number}"
        for file in programs_of_cards()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert found == []


def programs_of_cards() -> list[Path]:
    """Sources of CUDA C++, and of what stands in for a card."""
    return [*(ROOT / "sdstream").rglob("*.cu"), *(ROOT / "tests/diffusion").rglob("*.h")]


@pytest.mark.parametrize("file", sources(), ids=name_of)
def test_all_names_what_the_module_has_and_nothing_private(file: Path) -> None:
    tree = parsed(file)
    names = exported(tree)
    if names is None:
        return
    assert not set(names) - public_names(tree), "in __all__, but not defined"
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_") and not name.startswith("__")]


@pytest.mark.parametrize("file", sources(), ids=name_of)
def test_every_module_says_what_it_is_for(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not text.strip() or ast.get_docstring(parsed(file))


def test_no_validator_of_the_settings_hides_another() -> None:
    """The classes of the settings are one class in the end, in which of two validators of one name only one runs."""
    names = [
        node.name
        for file in PACKAGE.glob("*settings.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef)
        and any("validator(" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    assert len(names) > 10
    assert sorted(names) == sorted(set(names))


def test_only_the_clock_imports_time() -> None:
    assert [name_of(file) for file in sources() if "time" in imported(file)] == ["sdstream/clock.py"]


def test_calls_that_only_some_systems_have_live_in_one_package() -> None:
    found = {name_of(file) for file in sources() if POSIX_ONLY & set(imported(file))}
    # mmap exists everywhere; the ring only types the memory that the package made. So does ctypes, in which the numbers
    # lie that a kernel is told.
    everywhere = {"sdstream/worker/ring.py", "sdstream/diffusion/convolving/hopper/compiled.py"}
    assert {name for name in found - everywhere if not name.startswith(PLATFORM)} == set()
    assert f"{PLATFORM}processes.py" in found


def test_names_and_files_that_only_some_systems_have_live_there_too() -> None:
    found: set[tuple[str, str]] = set()
    for file in [*sources(), ROOT / "handler.py", *sorted((ROOT / "builder").rglob("*.py"))]:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Attribute) and POSIX_ONLY_NAMES.fullmatch(node.attr):
                found.add((name_of(file), node.attr))
            elif isinstance(node, ast.Constant) and str(node.value).startswith(("/proc/", "/sys/", "/dev/")):
                found.add((name_of(file), str(node.value)))
    assert {entry for entry in found if not entry[0].startswith(PLATFORM)} == set()
    assert (f"{PLATFORM}processes.py", "add_signal_handler") in found


@pytest.mark.slow
def test_the_server_side_runs_where_torch_cannot_be_imported() -> None:
    program = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "diffusers", "transformers"):
            raise ImportError(name + " is blocked in the server process")
sys.meta_path.insert(0, Blocked())
for name in {SERVER_SIDE!r}:
    importlib.import_module(name)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr


def test_the_command_line_imports_no_room_before_a_command_runs() -> None:
    program = "import sys, sdstream.cli; print(*sorted(name for name in sys.modules if name.startswith('sdstream.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.split() == ["sdstream.cli", "sdstream.errors"]
