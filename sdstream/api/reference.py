"""`/openapi.json`, and `/docs`: the same document as one plain page, made here, without a script or an outside host."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sdstream.api.answers import encode_json
from sdstream.api.pages import security_headers
from sdstream.settings import Settings

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid #8886; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow: auto; padding: .6rem; background: #8882; border-radius: .3rem; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; }
.method { display: inline-block; min-width: 5rem; font-weight: 700; }
.extension { font-size: .8em; border: 1px solid #888; border-radius: 1rem; padding: 0 .5rem; margin-left: .5rem; }
.deprecated { text-decoration: line-through; }
"""


class ReferencePage:
    """Serves the OpenAPI document as JSON and as HTML; both are made once, when somebody asks."""

    def __init__(self, build: Callable[[], dict[str, Any]], settings: Settings) -> None:
        self._build = build
        self._bodies: dict[str, bytes] = {}
        digest = hashlib.sha256(STYLE.encode()).digest()
        self._headers = security_headers(settings) | {"Cache-Control": "no-cache"}
        self._headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'sha256-{base64.b64encode(digest).decode()}'; base-uri 'none'; "
            "frame-ancestors 'none'"
        )

    async def _body(self, name: str, render: Callable[[dict[str, Any]], bytes]) -> bytes:
        if name not in self._bodies:  # in a thread: it takes a tenth of a second, which no picture shall wait for
            self._bodies[name] = await asyncio.to_thread(lambda: render(self._build()))
        return self._bodies[name]

    async def document(self, request: Request) -> Response:
        return Response(
            await self._body("json", encode_json), media_type="application/json", headers={"Cache-Control": "no-cache"}
        )

    async def page(self, request: Request) -> Response:
        return Response(await self._body("html", _page), media_type="text/html; charset=utf-8", headers=self._headers)


def _page(document: dict[str, Any]) -> bytes:
    return "".join(_lines(document)).encode()


def _lines(document: dict[str, Any]) -> Iterator[str]:
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
    for paragraph in document["info"]["description"].split("\n\n"):
        yield f"<p>{escape(paragraph)}</p>"
    yield '<p>The same as <a href="openapi.json">OpenAPI document</a>.</p>'
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>"
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    yield from _operation(path, method, operation)
    yield "</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    crossed = ' class="deprecated"' if operation.get("deprecated") else ""
    mark = '<span class="extension">extension</span>' if operation.get("x-sdstream-extension") else ""
    yield f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method.upper()}</span>'
    yield f"<code{crossed}>{escape(path)}</code>{mark} {escape(operation['summary'])}</summary>"
    yield f"<p>{escape(operation['description'])}</p>"
    if operation.get("parameters"):
        yield "<table>"
        for parameter in operation["parameters"]:
            yield f"<tr><th><code>{escape(parameter['name'])}</code></th><td>{escape(parameter['in'])}</td>"
            yield f"<td>{escape(parameter.get('description', ''))}</td></tr>"
        yield "</table>"
    if "requestBody" in operation:
        yield from _content("Request", operation["requestBody"]["content"])
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            yield from _content(f"{status} {response['description']}", response.get("content", {}))
    errors = ", ".join(status for status in operation["responses"] if not status.startswith("2"))
    if errors:
        yield f"<p>Errors: {escape(errors)}</p>"
    yield "</details>"


def _content(heading: str, content: dict[str, Any]) -> Iterator[str]:
    yield f"<h4>{escape(heading)}</h4>"
    for media_type, body in content.items():
        yield f"<p><code>{escape(media_type)}</code></p>"
        example = body.get("example")
        if example is not None:
            text = example if isinstance(example, str) else json.dumps(example, indent=2)
            yield f"<pre>{escape(text)}</pre>"


__all__ = ["ReferencePage"]
