"""Makes a certificate authority of your own, and certificates for servers and clients.

    pip install cryptography
    python examples/make_certificates.py certificates --server critic.example.com --server 10.0.0.7

writes ca.pem, server.pem and client.pem, each with its .key, into a directory. A second run there
keeps the authority and renews the other two. Who has ca.key can pass for anybody: keep it off the
machines that serve. Ready-made tools (cert-manager, step-ca, your company's) do as well.
"""

import argparse
import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def save(self, directory: Path, name: str) -> None:
        """As name.pem and name.key; the key for its owner only."""
        unencrypted = serialization.NoEncryption()
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        _replace(directory / f"{name}.key", self.key.private_bytes(pem, pkcs8, unencrypted), 0o600)
        _replace(directory / f"{name}.pem", self.certificate.public_bytes(pem), 0o644)


def authority(name: str = "Adjudge CA", days: float = 3650) -> Signed:
    """Signs others, and itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, name, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Signed(builder.sign(key, hashes.SHA256()), key)


def issued(
    by: Signed,
    name: str,
    usage: x509.ObjectIdentifier,
    hosts: tuple[str, ...] = (),
    days: float = 90,
) -> Signed:
    """For one purpose, CLIENT or SERVER. `hosts` are the names and addresses that clients connect
    to. Negative days make one that has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = by.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    builder = _builder(name, str(issuer), key, days)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return Signed(builder.sign(by.key, hashes.SHA256()), key)


def load(directory: Path, name: str) -> Signed:
    certificate = x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes())
    key = serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Signed(certificate, key)


def _builder(
    name: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ: a certificate of this minute must not be one of the future elsewhere.
        .not_valid_before(min(now, end) - timedelta(hours=1))
        .not_valid_after(end)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """In one step, so that a server that reads it meanwhile finds the old or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make certificates of a CA of your own.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--server", action="append", help="host that serves; repeatable")
    parser.add_argument("--client", default="trainer", help="what the client is called")
    parser.add_argument("--days", type=float, default=90, help="until servers and clients expire")
    options = parser.parse_args()
    directory: Path = options.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (directory / "ca.key").exists():
        authority().save(directory, "ca")
    ca = load(directory, "ca")
    hosts = tuple(options.server or ("localhost", "127.0.0.1", "::1"))
    issued(ca, "adjudge-server", SERVER, hosts, options.days).save(directory, "server")
    issued(ca, options.client, CLIENT, days=options.days).save(directory, "client")
    print(f"adjudge-server --tls-cert {directory}/server.pem --tls-key {directory}/server.key")
    print(f"export ADJUDGE_TLS_CA={directory}/ca.pem")


if __name__ == "__main__":
    main()
