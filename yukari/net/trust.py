"""
Trusted root certificates: the system's, those of a file, or both; and the names in certificates.

The system's are where OpenSSL has them, or where SSL_CERT_FILE and SSL_CERT_DIR say.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Optional
from weakref import ref

from attrs import frozen
from OpenSSL.crypto import X509
from OpenSSL.SSL import VERIFY_FAIL_IF_NO_PEER_CERT, VERIFY_PEER
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet._sslverify import IOpenSSLTrustRoot  # Twisted exports it nowhere.
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import platformTrust
from twisted.python.failure import Failure
from twisted.web.client import BrowserLikePolicyForHTTPS, HostnameCachingHTTPSPolicy
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from yukari.config.files import Roots


@implementer(IOpenSSLTrustRoot)
@frozen
class _Trust:
    system: bool
    more: Sequence[X509]

    def _addCACertsToContext(self, context: Any) -> None:
        if self.system:
            platformTrust()._addCACertsToContext(context)
        for certificate in self.more:
            context.get_cert_store().add_cert(certificate)


def _id(host: str) -> ServiceID:
    try:
        ip_address(host)
    except ValueError:
        return DNS_ID(host)
    return IPAddress_ID(host)


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class _Named:
    """
    Refuses certificates that do not name the host.

    Twisted does so, too; but one without any name, or whose names cannot be read, is accepted by
    Twisted 26.10 for every host: it logs the error, and that is all.
    """

    _creator: IOpenSSLClientConnectionCreator
    _id: ServiceID

    def clientConnectionForTLS(self, tlsProtocol: Any) -> Any:
        connection: Any = self._creator.clientConnectionForTLS(tlsProtocol)
        # The connection is the protocol's: it must not keep that alive.
        protocol = ref(tlsProtocol)

        def verify(_: Any, certificate: X509, __: int, depth: int, ok: int) -> bool:
            if depth or not ok:
                return bool(ok)
            try:
                verify_service_identity(extract_patterns(certificate), [self._id], [])
            except Exception:
                failed: Any = protocol()
                if failed is not None:
                    failed.failVerification(Failure())
                return False
            return True

        connection.set_verify(VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection


class _Policy(BrowserLikePolicyForHTTPS):
    """Twisted's, with `_Named`."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        host = hostname.strip(b"[]")
        return _Named(super().creatorForNetloc(host, port), _id(host.decode("ascii")))


def trust(roots: Optional[Roots] = None, *, system: bool = True) -> IPolicyForHTTPS:
    """
    Trust the system's roots, those of a file, or both.

    The connections to a host share what was read: reading the system's roots takes 5 ms.
    """
    more = () if roots is None else roots.certificates
    return HostnameCachingHTTPSPolicy(_Policy(_Trust(system, more)))
