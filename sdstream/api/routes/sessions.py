"""WHIP and WHEP: the signalling of publishers and viewers, E7 to E9 of the contract (section 5).

These URLs are capabilities: they carry an unguessable token, need no key and ignore one that is sent.
"""

from starlette.requests import Request
from starlette.responses import Response

from sdstream.api.bodies import FRAGMENT_TYPE, SDP_TYPE, read_sdp
from sdstream.api.candidates import with_called_address
from sdstream.api.context import Context
from sdstream.api.ports import Opened


class SessionRoutes:
    """Open, trickle and end WebRTC sessions."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams = context.streams

    async def publish(self, request: Request) -> Response:
        offer = await read_sdp(request)
        stream_key = request.path_params["stream_key"]
        # First, so that a TURN service that fails changes nothing.
        links = await self._context.ice_links(stream_key, request.scope)
        opened = await self._streams.publish(stream_key, offer)
        return self._answer(opened, self._context.address(request).whip_url(opened.record), request, links)

    async def watch(self, request: Request) -> Response:
        offer = await read_sdp(request)
        playback_id = request.path_params["playback_id"]
        links = await self._context.ice_links(playback_id, request.scope)
        opened = await self._streams.watch(playback_id, offer)
        return self._answer(opened, self._context.address(request).whep_url(opened.record), request, links)

    def _answer(self, opened: Opened, resource: str, request: Request, links: list[str]) -> Response:
        session_id, sdp = opened.answer.session_id, opened.answer.sdp
        # What the settings or RunPod's variables say is not added to.
        if not self._context.settings.webrtc_addresses and self._context.place is None:
            sdp = with_called_address(sdp, self._context.address(request).name)
        response = Response(sdp, 201, media_type=SDP_TYPE)
        response.headers["Location"] = f"{resource}/{session_id}"
        # Browsers learn the playback URL from here alone, so it comes with both kinds of answers.
        response.headers["Livepeer-Playback-URL"] = self._context.address(request).whep_url(opened.record)
        response.headers["ETag"] = f'"{session_id}"'
        response.headers["Accept-Patch"] = FRAGMENT_TYPE
        for link in links:
            response.headers.append("Link", link)
        return response

    async def end_publish(self, request: Request) -> Response:
        path = request.path_params
        await self._streams.end_publish_session(path["stream_key"], path["session_id"])
        return Response(status_code=200)

    async def end_watch(self, request: Request) -> Response:
        path = request.path_params
        await self._streams.end_watch_session(path["playback_id"], path["session_id"])
        return Response(status_code=200)

    async def trickle_publish(self, request: Request) -> Response:
        fragment = await read_sdp(request, FRAGMENT_TYPE)
        path = request.path_params
        await self._streams.add_publish_candidates(path["stream_key"], path["session_id"], fragment)
        return Response(status_code=204)

    async def trickle_watch(self, request: Request) -> Response:
        fragment = await read_sdp(request, FRAGMENT_TYPE)
        path = request.path_params
        await self._streams.add_watch_candidates(path["playback_id"], path["session_id"], fragment)
        return Response(status_code=204)


__all__ = ["SessionRoutes"]
