"""A certificate authority of a test's own, and a way by TLS to what listens in the clear."""

from __future__ import annotations

import itertools
import os
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.portforward import ProxyFactory

from tests.running import RunningCase, reactor, until

_count = itertools.count(1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _valid(issuer: x509.Name, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(hours=1),
        now + timedelta(hours=1),
    )


def _names(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_san(each) for each in names])


def _plain(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Return a new key and a self-signed certificate of a host or an address, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _valid(_name(name), _name(name), key).add_extension(_names(name), False)
    return _plain(key), made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@define(eq=False)
class Authority:
    """Its root certificate lies in ``directory``."""

    directory: str
    _key: Any = field(factory=lambda: ec.generate_private_key(ec.SECP256R1()), init=False)

    _name: x509.Name = field(factory=lambda: _name(f"test root {next(_count)}"), init=False)

    def __attrs_post_init__(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        root = _valid(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        with open(self.path, "wb") as file:
            file.write(root.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    @property
    def path(self) -> str:
        """The root certificate's file."""
        return os.path.join(self.directory, "root.pem")

    def certificate(self, *names: str) -> bytes:
        """
        A new key and its certificate for hosts and addresses, in PEM; without ``names``, one that
        has none.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        made = _valid(self._name, _name(names[0] if names else "127.0.0.1"), key)
        if names:
            made = made.add_extension(_names(*names), False)
        signed = made.sign(self._key, hashes.SHA256())
        return _plain(key) + signed.public_bytes(Encoding.PEM)


class _Forwarding(ProxyFactory):
    """Counts the connections that are open."""

    noisy = False

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.open: set[object] = set()

    def buildProtocol(self, address: Any) -> Any:
        made: Any = super().buildProtocol(address)
        lost = made.connectionLost

        def gone(reason: Any) -> None:
            self.open.discard(made)
            lost(reason)

        made.connectionLost = gone
        self.open.add(made)
        return made


def tls_front(case: RunningCase, url: str, pem: bytes, *, host: str = "127.0.0.1") -> str:
    """
    Listen by TLS with this key and certificate, pass on to an http URL, and return the https URL.
    """
    to_host, to_port = url.removeprefix("http://").split(":")
    forwarding = _Forwarding(to_host, int(to_port))
    context = PrivateCertificate.loadPEM(pem).options()
    listening = reactor.listenSSL(0, forwarding, context, interface=host)
    case.addCleanup(lambda: Deferred.fromCoroutine(until(lambda: not forwarding.open)))
    case.addCleanup(lambda: maybeDeferred(listening.stopListening))
    return f"https://{host}:{listening.getHost().port}"
