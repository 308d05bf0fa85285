"""
Whose certificates are trusted: the system's roots, or those of a file, or both.

The system's are where OpenSSL has them, or where SSL_CERT_FILE and SSL_CERT_DIR say.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Optional

from attrs import field, frozen
from OpenSSL.crypto import FILETYPE_PEM, X509, load_certificate
from twisted.internet._sslverify import IOpenSSLTrustRoot  # Twisted exports it nowhere.
from twisted.internet.ssl import platformTrust
from twisted.web.client import BrowserLikePolicyForHTTPS, HostnameCachingHTTPSPolicy
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from yukari.config.files import read_file

_END = b"-----END CERTIFICATE-----"


@frozen
class Roots:
    """The root certificates of a PEM file."""

    path: str
    certificates: tuple[X509, ...] = field(eq=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Roots:
        """Read the file of this path; ValueError says what is wrong with it."""
        path = os.path.abspath(os.path.expanduser(text))
        try:
            content = read_file(path)
        except OSError as error:
            raise ValueError(f"expected a file of certificates: {error.strerror}") from None
        try:
            blocks = [part for part in content.split(_END) if b"-----BEGIN CERT" in part]
            found = tuple(load_certificate(FILETYPE_PEM, part + _END) for part in blocks)
        except Exception:
            raise ValueError("expected certificates in PEM form, one is broken") from None
        if not found:
            raise ValueError("expected certificates in PEM form, there is none")
        return cls(path, found)


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
    Trust in the system's roots, or not, and in some of a file.

    A host's connections share what was read: the system's roots take 5 ms.
    """
    more = () if roots is None else roots.certificates
    return HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(_Trust(system, more)))
