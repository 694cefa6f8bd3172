"""The `sdstream` program: reads the command line and runs one command.

A command's module is imported only when it runs, so `sdstream --help` starts at once and nothing here imports torch.

Exit codes: 0 done, 1 the work failed, 2 the command line or a setting is wrong, 130 interrupted.
"""

import importlib
import inspect
import re
import sys
from typing import Any, cast

from cyclopts import App, CoercionError, CycloptsError, Parameter, UnusedCliTokensError, convert
from rich.console import Console
from rich.text import Text

from sdstream import __version__
from sdstream.errors import CommandFailed, ConfigurationError, SdstreamError

HELP = "Real-time video diffusion on your own GPU, speaking Daydream's API."
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

COMMANDS = {
    "serve": "Run the server: REST, WebRTC in and out, the playground.",
    "doctor": "Check this machine and say what `serve` will do, and why.",
    "publish": "Send a video file or a test picture to a WHIP URL.",
    "render": "Process a whole video file, every frame in order.",
    "bench": "Measure how many pictures a second this machine makes.",
    "models": "List, fetch and pin models; make tiny ones to try with.",
    "engines": "List, fetch and warm compiled engines.",
    "openapi": "Print the OpenAPI document of the REST API.",
    "deploy": "Make a pod or a serverless endpoint on RunPod.",
    "install-mediamtx": "Fetch the program MediaMTX, for publishing by RTMP, RTSP and SRT.",
    "key": "Make, list and revoke the keys of the REST API.",
}
"""Every command and the line that `--help` shows; `sdstream.commands.NAME` holds it as `NAME`, a dash as underscore."""


def make_application(chosen: str = "") -> App:
    """The command tree; imports none of the commands but the `chosen` one, whose own words its help shows."""
    application = App(
        name="sdstream",
        help=HELP,
        version=__version__,
        help_format="plaintext",
        # A list is empty when its flag is not given: no flag --empty-NAME.
        default_parameter=Parameter(converter=_read, negative_iterable=()),
    )
    for order, (name, line) in enumerate(COMMANDS.items()):
        module = name.replace("-", "_")
        words = _own_words(module) if name == chosen else ""
        application.command(f"sdstream.commands.{module}:{module}", name=name, help=words or line, sort_key=order)
    return application


def _own_words(module: str) -> str:
    """What a command says of itself, a paragraph a line; nothing of one that has commands of its own."""
    command = getattr(importlib.import_module(f"sdstream.commands.{module}"), module)
    words = "" if isinstance(command, App) else inspect.getdoc(command) or ""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in words.split("\n\n"))


def run(arguments: list[str] | None = None) -> int:
    """Run one command line (default: the process's) and return the exit code; errors go to stderr as one line."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code = _run(arguments, errors)
        print(end="", flush=True)  # now: at the interpreter's end nobody could be told that it fails
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        return EXIT_FAILED
    except CommandFailed as error:
        _print_error(errors, error)
        return EXIT_FAILED
    return code


def _run(arguments: list[str] | None, errors: Console) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = make_application(next((word for word in words if word in COMMANDS), ""))(
            arguments,
            exit_on_error=False,
            print_error=True,
            error_console=errors,
            error_formatter=_describe_usage,
            result_action="return_value",
        )
    except CycloptsError:
        return EXIT_USAGE
    except ConfigurationError as error:
        _print_error(errors, error)
        return EXIT_USAGE
    except SdstreamError as error:
        _print_error(errors, error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def visible(text: str) -> str:
    """`text` with what a terminal would obey and not show, such as escape sequences, written as Python writes it.

    Messages have words of servers, models and files in them.
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _read(wanted: Any, words: Any) -> Any:
    """As the library reads the words of a value, but for whole numbers with a fraction, which it would round."""
    if wanted in (int, list[int]):
        for word in words:
            if re.fullmatch(r"[+-]?[0-9]*\.[0-9]*[1-9][0-9]*", word.value):
                raise CoercionError(msg=f"must be a whole number, not {word.value!r}", target_type=int, token=word)
    return cast("Any", convert)(wanted, words)


def _describe_usage(error: CycloptsError) -> Text:
    return Text.assemble(("sdstream: ", "bold red"), " ".join(_usage(error).split()))


def _usage(error: CycloptsError) -> str:
    """What is wrong with a command line; the library's words where they say it."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        value = error.unused_tokens[0]
        before = _before(value, error.root_input_tokens or [])
        is_switch = before.startswith("--") and "=" not in before
        problem = f"{before} takes no value such as {value!r}" if is_switch else f"{value!r} is a word too many"
        command = " ".join(("sdstream", *(error.command_chain or ())))
        return f"{problem}; `{command} --help` shows what there is"
    if isinstance(error, CoercionError) and error.target_type is bool and error.token and error.token.keyword:
        return f"{error.token.keyword}: must be true or false, not {error.token.value!r}"
    return str(error)


def _before(word: str, words: list[str]) -> str:
    """The word that stands before the last `word`, which is where one that nobody takes is."""
    places = [place for place, each in enumerate(words) if each == word and place > 0]
    return words[places[-1] - 1] if places else ""


def _print_error(console: Console, error: SdstreamError) -> None:
    for line in error.message.splitlines() or [type(error).__name__]:
        console.print(Text.assemble(("sdstream: ", "bold red"), visible(line)))
    if error.hint:
        console.print(Text(f"  {visible(error.hint)}", "dim"))


__all__ = ["COMMANDS", "EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_USAGE", "make_application", "run", "visible"]
