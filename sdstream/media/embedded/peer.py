"""One ICE, DTLS and SRTP connection: with `ice`, `dtls` and `srtp` all that reaches into aiortc and its parts.

aiortc's own peer connection is not used. Its parts are: the ICE agent, the DTLS transport and the SRTP sessions. They
are taken as they are, through subclasses, and this module replaces two of their hops when `fast` is on:

* a received media packet goes from the socket straight to SRTP and to our handler, instead of through two queues and
  a task that wakes up once for each packet;
* a sent packet goes from SRTP straight to the socket, instead of through four coroutines, and the packets of a picture
  by one call to the kernel where it can cut them apart, which the encoder's thread may make itself.

With `fast` off the stock way is used; both ways are tested to deliver the same. The private names that are touched are
listed in `SEAMS` and looked up at start, so another version of the libraries cannot fail later and half way.
"""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Protocol

import pylibsrtp
import structlog
from aiortc import RTCIceTransport
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters

from sdstream.errors import ConfigurationError, InvalidSdp
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.bursts import BurstSocket
from sdstream.media.embedded.dtls import SEAMS as DTLS_SEAMS
from sdstream.media.embedded.dtls import Certificate, DtlsTransport, EarlyPackets, PacketHandler
from sdstream.media.embedded.ice import SEAMS as ICE_SEAMS
from sdstream.media.embedded.ice import AddressedGatherer, parse_candidate, write_buffer_size
from sdstream.media.embedded.sdp import MediaSection, Setup, Transport
from sdstream.media.embedded.srtp import ShortSession, short_way_known

CONNECT_SECONDS = 15.0
"""Time from the answer to the end of the DTLS handshake; a client that does not come gives its place back."""
MOST_CANDIDATES = 32
"""Remote candidates that are dialled, of the offer and of later fragments together. aioice sorts all pairs again for
each, and each has checks sent to an address of the client's choice; a client behind others is learnt from its checks.
"""
TRIED_VERSIONS = {"aiortc": ("1.16",), "aioice": ("0.13",), "pylibsrtp": ("0.", "1.")}
SEAMS: tuple[tuple[Any, str], ...] = (*ICE_SEAMS, *DTLS_SEAMS)

log = structlog.get_logger(__name__)


class PeerHandler(PacketHandler, Protocol):
    """Told what a peer does, always on the event loop."""

    def on_connected(self) -> None: ...

    def on_closed(self, reason: str) -> None:
        """The connection ended by itself, once; not called after `Peer.close`."""
        ...


class Peer:
    """The connection to one client. The server answers; the offering side is there for test cameras and benches."""

    def __init__(self, addressing: Addressing, handler: PeerHandler, *, fast: bool = True) -> None:
        self._handler = handler
        self._fast = fast
        self._gatherer = AddressedGatherer(addressing)
        self._connection = self._gatherer.connection
        self._connection.queues_media = not fast
        self._early = EarlyPackets()
        self._connection.media_sink = self._early.keep_or_drop_newest
        self._ice = RTCIceTransport(self._gatherer)
        self._certificate = Certificate.generateCertificate()
        self._dtls = DtlsTransport(self._ice, self._certificate, handler)
        self._dtls.on("statechange", self._on_dtls_state)
        self._connecting: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._candidates = 0
        self._setup: Setup = "active"
        self._ended = False
        self.connected = False
        """Whether packets can be sent at this moment."""
        self._address: tuple[str, int] | None = None
        self._datagrams: Any = None
        self._is_closing: Callable[[], bool] = _never
        self._burst_route: Any = None
        self._bursts: BurstSocket | None = None
        self._loop = asyncio.get_running_loop()
        self._outgoing = threading.Lock()
        """Guards the SRTP state of what is sent and the socket of bursts between the loop and other threads."""
        self._held = False
        """Whether packets wait in the transport, so that all others must go behind them."""
        self._sender: Any = None
        self._receiver: Any = None

    async def gather(self, setup: Setup) -> Transport:
        """Open the sockets and say what the answer (or the offer, with `actpass`) must.

        Raises `ConfigurationError` when no address can be opened, `CapacityReached` when no port is free.
        """
        self._setup = setup
        # Before the sockets are open: a check of the other side may come at once, and both must know their parts.
        self._connection.ice_controlling = setup == "actpass"
        await self._gatherer.gather()
        candidates = tuple(candidate.to_sdp() for candidate in self._connection.local_candidates)
        if not candidates:
            raise ConfigurationError(
                "no address to put into the WebRTC answer", hint="Set SDSTREAM_WEBRTC_ADDRESSES to one of this machine."
            )
        fingerprints = self._certificate.getFingerprints()
        return Transport(
            ice_username=self._connection.local_username,
            ice_password=self._connection.local_password,
            fingerprints=tuple((item.algorithm, item.value) for item in fingerprints if item.algorithm == "sha-256"),
            setup=setup,
            candidates=candidates,
        )

    def connect(self, remote: MediaSection, *, ice_lite: bool = False) -> None:
        """Start to connect to the peer that `remote` describes; the handler hears of success and failure."""
        if ice_lite:
            self._connection.ice_controlling = True
        self._connecting = asyncio.ensure_future(self._connect(remote, ice_lite))

    async def add_candidate(self, line: str) -> None:
        """Take the value of an `a=candidate` line.

        Candidates that cannot be dialled from here are passed over, and so are those past `MOST_CANDIDATES`.
        Raises `InvalidSdp` when the line is no candidate.
        """
        candidate = parse_candidate(line)
        if candidate is not None and not self._ended and self._candidates < MOST_CANDIDATES:
            self._candidates += 1
            await self._connection.add_remote_candidate(candidate)

    def send_rtp(self, packet: bytes) -> None:
        """Encrypt and send one packet; nothing happens while not connected."""
        if not self.connected:
            return
        if self._fast:
            with self._outgoing:
                self._send_datagram(self._sender.protect(packet))
        else:
            self._send_plainly(packet)

    @property
    def sends_here(self) -> bool:
        """Whether `send_rtp_burst_here` is a way at this moment. From any thread."""
        bursts = self._bursts
        return self.connected and not self._held and bursts is not None and bursts.works

    def send_rtp_burst_here(self, packets: Sequence[bytes]) -> None:
        """As `send_rtp_burst`, from any thread, after `sends_here`. What the socket refuses goes by the loop."""
        with self._outgoing:
            bursts = self._bursts
            if not self.connected or bursts is None:
                return
            datagrams = self._sender.protect_burst(packets)
            taken = bursts.send(datagrams, self._address)
            if taken == len(datagrams):
                return
            self._held = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._send_rest, datagrams[taken:])

    def _send_rest(self, datagrams: Sequence[bytes]) -> None:
        with self._outgoing:
            for datagram in datagrams:
                self._send_datagram(datagram)
            self._held = self.backlog > 0

    def send_rtp_burst(self, packets: Sequence[bytes]) -> None:
        """As `send_rtp` of each in turn, by fewer calls to the kernel where it can."""
        if len(packets) < 2 or not self._fast or not self.connected:
            for packet in packets:
                self.send_rtp(packet)
            return
        with self._outgoing:
            datagrams = self._sender.protect_burst(packets)
            taken = 0
            if self._find_route() and self._bursts is not None and self._bursts.works and self.backlog == 0:
                taken = self._bursts.send(datagrams, self._address)
            for datagram in datagrams[taken:]:
                self._send_datagram(datagram)
            self._held = self.backlog > 0

    def send_rtcp(self, packet: bytes) -> None:
        """Encrypt and send one compound RTCP packet."""
        if not self.connected:
            return
        if self._fast:
            with self._outgoing:
                self._send_datagram(self._sender.protect_rtcp(packet))
        else:
            self._send_plainly(packet)

    async def close(self) -> None:
        """Take the connection down and free its sockets. Idempotent."""
        self._ended = True
        self.connected = False
        self._connection.media_sink = self._connection.burst_sink = None
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        pump = self._dtls.pump
        await self._dtls.stop()
        with self._outgoing:  # closed under a sender, the descriptor could already be another's
            self._close_bursts()
        await self._ice.stop()
        pending = [*self._sending, *([pump] if pump is not None else [])]
        await asyncio.gather(*pending, return_exceptions=True)
        self._dtls.remove_all_listeners()

    async def _connect(self, remote: MediaSection, ice_lite: bool) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for line in remote.candidates:
                    await self.add_candidate(line)
                # End of candidates is never signalled: a client that names none, or none we can dial, is learnt from
                # its own checks.
                await self._ice.start(
                    RTCIceParameters(
                        usernameFragment=remote.ice_username, password=remote.ice_password, iceLite=ice_lite
                    )
                )
                if self._ice.state != "completed":
                    self._end("ICE failed")
                    return
                offering = self._setup == "actpass"
                passive = remote.setup == "active" if offering else self._setup == "passive"
                self._dtls.become("server" if passive else "client")
                await self._dtls.start(
                    RTCDtlsParameters(
                        fingerprints=[
                            RTCDtlsFingerprint(algorithm=algorithm, value=digest)
                            for algorithm, digest in remote.fingerprints
                        ]
                    )
                )
        except TimeoutError:
            self._end("the client did not connect in time")
        except InvalidSdp as error:
            self._end(error.message)
        except Exception as error:  # the supervisor of this connection: whatever fails, its place is freed
            log.warning("a connection could not be made", error=type(error).__name__, exc_info=error)
            self._end("the connection failed")

    def _on_dtls_state(self) -> None:
        state = self._dtls.state
        if self._ended:
            return
        if state == "connected":
            self.connected = True
            self._receiver, sink = self._dtls.receiver, None
            if self._fast:
                self._sender, self._receiver = ShortSession(self._dtls.sender), ShortSession(self._dtls.receiver)
                self._connection.burst_sink, sink = self._on_burst, self._on_media
            self._connection.media_sink = sink
            self._handler.on_connected()
            self._early.hand_over(self._on_media)
        elif state == "failed":
            self._end(self._dtls.failure())
        elif state == "closed":
            self._end("the client went away")

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self.connected = False
            self._connection.media_sink = self._connection.burst_sink = None
            self._handler.on_closed(reason)

    def _on_media(self, data: bytes) -> None:
        try:
            if 192 <= data[1] <= 223:
                packet = self._receiver.unprotect_rtcp(data)
                self._handler.on_rtcp(packet)
            else:
                packet = self._receiver.unprotect(data)
                self._handler.on_rtp(packet)
        except pylibsrtp.Error:
            return  # a packet sent twice, an old one, or not from the client at all

    def _on_burst(self, data: memoryview, size: int) -> None:
        kinds = bytes(data[1::size])
        if kinds.translate(None, _KINDS_OF_RTCP) == kinds:
            for packet in self._receiver.unprotect_burst(data, size):
                self._handler.on_rtp(packet)
        else:
            for start in range(0, len(data) - 1, size):  # the last may have a single byte, and then no kind
                self._on_media(bytes(data[start : start + size]))

    def _send_datagram(self, data: bytes) -> None:
        if self._find_route():
            self._datagrams.sendto(data, self._address)

    def _find_route(self) -> bool:
        """Whether there is a socket to send by."""
        datagrams = self._datagrams
        if datagrams is None:
            pair = self._connection.selected_pair
            if pair is None:
                return False
            datagrams = self._datagrams = pair.protocol.transport
            self._address = pair.remote_addr
            self._is_closing = getattr(datagrams, "is_closing", _never)
            if datagrams is not self._burst_route:
                self._burst_route = datagrams
                self._close_bursts()
                self._bursts = BurstSocket(datagrams)
        return not self._is_closing()  # when consent has ended, the sockets go some turns of the loop before DTLS does

    def _close_bursts(self) -> None:
        bursts, self._bursts = self._bursts, None
        if bursts is not None:
            bursts.close()

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return write_buffer_size(self._datagrams)

    def refresh_route(self) -> None:
        """Look the nominated address up again; ICE may have moved to a better pair."""
        self._datagrams = None

    def _send_plainly(self, packet: bytes) -> None:
        task = asyncio.ensure_future(self._dtls.send_slowly(packet))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


_KINDS_OF_RTCP = bytes(range(192, 224))
"""What the second byte of an RTCP packet can be, and of no RTP packet (RFC 5761)."""


def _never() -> bool:
    return False


def fast_path_known() -> bool:
    """Whether the installed libraries are the versions that the fast path was tried with.

    Raises `ConfigurationError` when they lack what the plain path needs.
    """
    for owner, name in SEAMS:
        if not callable(inspect.getattr_static(owner, name, None)):
            raise ConfigurationError(
                f"{owner.__module__}.{owner.__name__} has no {name}",
                hint="Install aiortc 1.16 and aioice 0.13, which sdstream was tried with.",
            )
    return short_way_known() and all(
        version(package).startswith(tuple(prefix if prefix.endswith(".") else f"{prefix}." for prefix in prefixes))
        for package, prefixes in TRIED_VERSIONS.items()
    )


__all__ = ["CONNECT_SECONDS", "Peer", "PeerHandler", "fast_path_known"]
