"""
Trusted root certificates: the system's, those of a file, or both.

The system's are where OpenSSL has them, or where SSL_CERT_FILE and SSL_CERT_DIR say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from attrs import frozen
from OpenSSL.crypto import X509
from twisted.internet._sslverify import IOpenSSLTrustRoot  # Twisted exports it nowhere.
from twisted.internet.ssl import platformTrust
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


def trust(roots: Optional[Roots] = None, *, system: bool = True) -> IPolicyForHTTPS:
    """
    Trust the system's roots, those of a file, or both.

    The connections to a host share what was read: reading the system's roots takes 5 ms.
    """
    more = () if roots is None else roots.certificates
    return HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(_Trust(system, more)))
