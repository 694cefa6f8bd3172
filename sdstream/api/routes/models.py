"""`GET /v1/models`: what streams may ask for, and what of it is on this machine."""

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from sdstream.api.answers import json_answer
from sdstream.api.context import Context
from sdstream.params import ModelTable

if TYPE_CHECKING:
    from sdstream.worker.files.presence import Inventory, Presence

FRESH_SECONDS = 3.0
"""How long an inventory is believed: taking one asks the disk for a few hundred files."""


class ModelRoutes:
    """Models, ControlNets, IP-Adapters and the networks of image processors."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._table = ModelTable.from_settings(context.settings)
        self._taking: asyncio.Task[Inventory] | None = None
        self._taken_at = 0.0

    async def models(self, request: Request) -> Response:
        caller = await self._context.caller(request)
        inventory = await asyncio.shield(self._inventory())
        # Where files lie is the operator's affair: a path may hold names that others need not know.
        return json_answer({"success": True, **_answer(self._table, inventory, paths=caller.operator)})

    def _inventory(self) -> "asyncio.Task[Inventory]":
        """The one under way or taken a moment ago, else a new one."""
        now = self._context.clock.monotonic()
        task = self._taking
        stale = task is None or (task.done() and (now - self._taken_at > FRESH_SECONDS or task.exception() is not None))
        if task is None or stale:
            task = self._taking = asyncio.create_task(asyncio.to_thread(self._take), name="inventory of models")
            self._taken_at = now
        return task

    def _take(self) -> "Inventory":
        # Imported when first asked: it brings the hub's library, which the start of the server need not wait for.
        from sdstream.worker.files.presence import take_inventory

        return take_inventory(self._table)


def _answer(table: ModelTable, inventory: "Inventory", *, paths: bool) -> dict[str, Any]:
    from sdstream.worker.files.presence import processors_of

    def here(presence: "Presence") -> dict[str, Any]:
        return {
            "present": presence.present,
            "path": str(presence.path) if paths and presence.path is not None else None,
            "bytes": presence.size,
            "missing": list(presence.missing),
            "problem": (presence.problem or None) if paths else None,
            "fetched_when_needed": presence.fetched,
        }

    return {
        "data": [
            {
                "id": entry.id,
                "family": entry.family,
                "default": entry.id == table.default.id,
                **here(inventory.models[entry.id]),
            }
            for entry in table.entries()
        ],
        "controlnets": [
            {
                "id": name,
                "family": facts.family,
                "kind": facts.kind,
                "preprocessor": facts.preprocessor,
                "scale": facts.preset_scale,
                "conditioning_channels": facts.conditioning_channels,
                "in_sdks": facts.in_sdks,
                **here(inventory.controlnets[name]),
            }
            for name, facts in table.controlnets.items()
        ],
        "ip_adapters": [
            {"family": family, "type": kind, **here(presence)}
            for (family, kind), presence in inventory.adapters.items()
        ],
        "processor_networks": [
            {"name": name, "processors": list(processors_of(name)), **here(presence)}
            for name, presence in inventory.networks.items()
        ],
    }


__all__ = ["ModelRoutes"]
