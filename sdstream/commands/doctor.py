"""`sdstream doctor`: check this machine and say what `serve` will do, and why."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdstream.cli import EXIT_FAILED, visible
from sdstream.commands.checks import (
    Check,
    Verdict,
    check_access,
    check_address,
    check_data_directory,
    check_eight_bit,
    check_encoder,
    check_gpu,
    check_models,
    check_port,
    check_torch,
)
from sdstream.commands.flags import with_settings
from sdstream.commands.gateway_checks import check_directory, check_endpoint
from sdstream.commands.kept_checks import check_keys, check_streams
from sdstream.commands.machine import MachineFacts, compute_capability, read_machine
from sdstream.commands.mediamtx_check import check_mediamtx, check_mediamtx_ports
from sdstream.commands.plan import PlanLine, plan_serve
from sdstream.commands.ways_in import check_container_disk, check_ingest, check_runpod, check_volume, check_webrtc
from sdstream.settings import Settings

MARKS = {Verdict.GOOD: ("ok", "bold green"), Verdict.NOTE: ("note", "bold yellow"), Verdict.BAD: ("BAD", "bold red")}


@with_settings()
def doctor(
    *,
    json_output: Annotated[bool, Parameter(name="--json", help="Print one JSON object instead.", negative=())] = False,
    every_setting: Annotated[
        bool, Parameter(name="--all", help="List the settings that have their default, too.", negative=())
    ] = False,
    settings: Settings,
    sources: Mapping[str, str],
) -> int:
    """Check this machine and say what `serve` will do, and why. Changes nothing.

    Takes the flags of `serve`, so that a start can be checked before it is made. Exit code 1 when something is BAD.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # a pipe has no width
    facts = read_machine(settings)
    plan = plan_serve(settings, facts)
    with Console(stderr=True).status("checking") as status:
        checks = asyncio.run(run_checks(settings, facts, lambda subject: status.update(f"checking {subject}")))
    failed = sum(check.verdict is Verdict.BAD for check in checks)
    values = {name: printable(getattr(settings, name)) for name in Settings.model_fields}
    shown = {name: value for name, value in values.items() if every_setting or sources[name] != "default"}
    if json_output:
        print(json.dumps(as_json(checks, plan, shown, sources), indent=2))
        return EXIT_FAILED if failed else 0
    console.print(_check_table(checks))
    console.print("What `sdstream serve` will do:", style="bold")
    for line in plan:
        console.print(Text(line.text), soft_wrap=True)
    console.print(
        f"Settings in force{'' if every_setting else ' that are not the default (--all lists every one)'}:",
        style="bold",
    )
    for name, value in shown.items():
        console.print(Text(f"  {name} = {value}  ({sources[name]})"), soft_wrap=True)
    if not shown:
        console.print("  none")
    verdict = f"{failed} of {len(checks)} checks are BAD" if failed else f"all {len(checks)} checks let `serve` work"
    if not failed and any(check.subject == "port" and check.verdict is Verdict.NOTE for check in checks):
        verdict = f"all {len(checks)} checks let the server work that runs already; a second one would not start"
    console.print(verdict, style="bold red" if failed else "bold green")
    return EXIT_FAILED if failed else 0


async def run_checks(
    settings: Settings, facts: MachineFacts, on_start: Callable[[str], None] = lambda subject: None
) -> list[Check]:
    """All checks in order; `on_start` hears the subject of the slow ones."""
    base = facts.place.public_base(settings.port) if facts.place is not None else None
    checks = [check_port(settings), check_access(settings, base)]
    if settings.placement == "runpod":  # a gateway has no media, no card and no model
        on_start("endpoint")
        checks += await asyncio.gather(check_endpoint(settings), check_directory(settings))
        return [*checks, check_data_directory(settings), check_keys(settings)]
    if facts.place is not None:
        checks += [check_runpod(settings, facts.place), *check_ingest(settings, facts.place)]
    on_start("WebRTC")
    checks.append(await check_webrtc(settings, facts))
    if facts.addresses and facts.webrtc.mode != "tcp":
        on_start("UDP")
        checks += await asyncio.gather(*(check_address(address, settings) for address in facts.addresses))
    elif facts.webrtc.mode not in ("off", "tcp"):
        remedy = "Set SDSTREAM_WEBRTC_ADDRESSES."
        checks.append(Check("UDP", Verdict.BAD, "this machine has no address that clients could use", remedy))
    checks.append(check_gpu(facts))
    if settings.eight_bit != "off":
        _, _, number = settings.worker_device.partition(":")
        capability = compute_capability(int(number) if number.isdigit() else 0)
        checks.append(check_eight_bit(capability, convolutions=settings.eight_bit == "all"))
    on_start("torch")
    checks.append(await asyncio.to_thread(check_torch, settings, facts))
    data = check_data_directory(settings)
    checks += [check_encoder(settings, facts), data, check_keys(settings)]
    # What lies where nothing can be written is not at fault.
    streams = None if data.verdict is Verdict.BAD else await asyncio.to_thread(check_streams, settings)
    checks += [] if streams is None else [streams]
    if settings.media_backend == "mediamtx":
        checks.append(await asyncio.to_thread(check_mediamtx, settings))
        checks.append(await asyncio.to_thread(check_mediamtx_ports, settings))
    if facts.place is not None:
        checks += [check_volume(settings), check_container_disk()]
    checks.append(check_models(settings))
    return checks


def as_json(
    checks: Sequence[Check], plan: Sequence[PlanLine], settings: Mapping[str, str], sources: Mapping[str, str]
) -> dict[str, Any]:
    """The same findings for programs."""
    return {
        "ok": all(check.verdict is not Verdict.BAD for check in checks),
        "checks": [asdict(check) for check in checks],
        "plan": [asdict(line) for line in plan],
        "settings": {name: {"value": value, "source": sources[name]} for name, value in settings.items()},
    }


def printable(value: Any) -> str:
    """A setting's value for people; secrets are only counted."""
    if isinstance(value, tuple):
        if any(isinstance(part, SecretStr) for part in value):  # pyright: ignore[reportUnknownVariableType]
            return f"{len(value)} hidden"  # pyright: ignore[reportUnknownArgumentType]
        return ", ".join(str(part) for part in value) or "none"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} from {entry.source}" for name, entry in value.items()) or "none"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportUnknownMemberType]
    return "unset" if value is None else str(value)


def _check_table(checks: Sequence[Check]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check in checks:
        mark, style = MARKS[check.verdict]
        finding = Text("\n".join(visible(line) for line in check.finding.split("\n")))
        if check.remedy and check.verdict is not Verdict.GOOD:
            finding.append(f"\n{check.remedy}", "dim")
        table.add_row(Text(mark, style), check.subject, finding)
    return table


__all__ = ["as_json", "doctor", "printable", "run_checks"]
