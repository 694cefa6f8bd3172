"""DTLS and the keys of SRTP: aiortc's transport, whose decrypted packets go to a handler instead of to its receivers.

`EarlyPackets` are those of a client that is through with its part of the handshake before we are with ours.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiortc import RTCCertificate, RTCIceTransport
from aiortc.rtcdtlstransport import RTCDtlsTransport, SRTPProtectionProfile
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

SEAMS: tuple[tuple[Any, str], ...] = (
    (RTCCertificate, "_create_ssl_context"),
    (RTCDtlsTransport, "_handle_rtp_data"),
    (RTCDtlsTransport, "_handle_rtcp_data"),
    (RTCDtlsTransport, "_send_rtp"),
    (RTCDtlsTransport, "_set_role"),
)
MOST_EARLY = 512
"""Packets that are kept, of up to 1500 bytes; more than a key frame has."""
CIPHERS = b":".join(
    b"ECDHE-%s-%s" % (signature, cipher)
    for signature in (b"ECDSA", b"RSA")
    for cipher in (b"AES128-GCM-SHA256", b"CHACHA20-POLY1305", b"AES128-SHA", b"AES256-SHA")
)
"""aiortc's own, and the same for peers with an RSA certificate, such as GStreamer."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Those of a client's certificate that OpenSSL admits in a handshake."""


class PacketHandler(Protocol):
    """Takes what comes in, decrypted, always on the event loop."""

    def on_rtp(self, packet: bytes) -> None: ...

    def on_rtcp(self, packet: bytes) -> None: ...


class Certificate(RTCCertificate):
    """Ours: made anew for each connection, and content with either kind of the other side's."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(CIPHERS)
        return context


class DtlsTransport(RTCDtlsTransport):
    """The handshake, the pump that decrypts, and the sessions of SRTP that it ends with."""

    def __init__(self, ice: RTCIceTransport, certificate: RTCCertificate, handler: PacketHandler) -> None:
        super().__init__(ice, [certificate])
        self._handler = handler

    def become(self, role: str) -> None:
        """Take the `client` or `server` part of the handshake."""
        self._set_role(role)

    @property
    def sender(self) -> Any:
        return self._tx_srtp

    @property
    def receiver(self) -> Any:
        return self._rx_srtp

    @property
    def pump(self) -> "asyncio.Future[None] | None":
        return self._task

    def failure(self) -> str:
        """Why the handshake failed, for people, as far as the other side's certificate tells."""
        certificate = None if self._ssl is None else self._ssl.get_peer_certificate(as_cryptography=True)
        return f"the DTLS handshake failed{_fault(certificate and certificate.public_key(), self.encrypted)}"

    async def send_slowly(self, packet: bytes) -> None:
        try:
            await self._send_rtp(packet)
        except ConnectionError:
            return  # the connection went between the check and the send; the pump reports it

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        self._handler.on_rtp(data)

    async def _handle_rtcp_data(self, data: bytes) -> None:
        self._handler.on_rtcp(data)


def _fault(key: object, encrypted: bool) -> str:
    if encrypted:
        return ": the certificate is not the one that the SDP names, or there is no SRTP profile in common"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in CURVES:
        # FFmpeg 8.1's WHIP muxer makes such ones for itself where it is built with GnuTLS, as PyAV's wheels are.
        return f": OpenSSL takes no certificate of the curve {key.curve.name}, but one of P-256"
    return ""


class EarlyPackets:
    """Media that comes after the other side's end of the handshake and before ours.

    The first packets are most often a key frame, and not every client makes another one when it is asked.
    """

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def keep_or_drop_newest(self, data: bytes) -> None:
        """Take one datagram; past `MOST_EARLY` it is dropped."""
        if len(self._kept) < MOST_EARLY:
            self._kept.append(data)

    def hand_over(self, sink: Callable[[bytes], None]) -> None:
        """Give what was kept to `sink`, in order, and keep nothing."""
        kept, self._kept = self._kept, []
        for data in kept:
            sink(data)


__all__ = ["MOST_EARLY", "SEAMS", "Certificate", "DtlsTransport", "EarlyPackets", "PacketHandler"]
