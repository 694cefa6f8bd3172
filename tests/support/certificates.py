"""Certificates that have signed themselves, for this machine's own address."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files: the certificate, its key, and both in one."""

    certificate: Path
    key: Path
    both: Path


def write_certificate(folder: Path, curve: ec.EllipticCurve | None = None) -> CertificateFiles:
    """A certificate for 127.0.0.1 and localhost, good for a day; its curve is P-256 unless told otherwise."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = CertificateFiles(folder / "certificate.pem", folder / "key.pem", folder / "server.pem")
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(private)
    files.both.write_bytes(private + certificate)
    return files


__all__ = ["CertificateFiles", "write_certificate"]
