"""
Certificates of ``ssl:`` and ``tls:`` endpoints, renewed without a restart.

Twisted reads them once. Here an endpoint's description is read again on SIGHUP and when its files
have changed. New connections get the new certificate, open ones are not disturbed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Optional

from attrs import define, field
from OpenSSL.SSL import Connection, Context
from twisted.internet import _sslverify  # whose default ciphers cannot be changed otherwise
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.ssl import AcceptableCiphers
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from yukari.config.files import reason_of
from yukari.config.listen import CREATORS, certificate_files, check_files, has_certificates
from yukari.sending.handshakes import Handshake, Handshakes
from yukari.sending.lendable import Lendable
from yukari.sending.tls import write_whole_blocks
from yukari.tasks import surviving

log = Logger()

CIPHERS = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20")
"""The suites of TLS 1.2 that are offered: forward secrecy and authenticated encryption."""
LOOK_EVERY = 10.0
"""Seconds between two checks whether the files have changed."""


@contextmanager
def _strict_ciphers() -> Iterator[None]:
    """
    Have the contexts that Twisted makes meanwhile offer `CIPHERS` alone, and TLS 1.3's.

    An endpoint's description cannot say so, and pyOpenSSL forbids it later on.
    """
    usual = _sslverify.defaultCiphers
    _sslverify.defaultCiphers = CIPHERS
    try:
        yield
    finally:
        _sslverify.defaultCiphers = usual


def _look_up_only(
    look_up: Callable[[Optional[bytes], bool], Optional[Context]], name: Optional[bytes]
) -> Optional[Context]:
    return look_up(name, False)


@implementer(IOpenSSLServerConnectionCreator)
@define(eq=False, repr=False)
class Renewed:
    """Makes TLS connections with the last usable content of an endpoint's files."""

    _reactor: Any
    _description: str
    _handshakes: Handshakes
    endpoint: IStreamServerEndpoint = field(init=False)
    """Listens as described, with this object as the maker of its connections."""
    _attribute: str = field(init=False)
    _creator: Any = field(init=False)
    _stamp: tuple[object, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._attribute = CREATORS[self._description.partition(":")[0]]
        self._stamp = self._look()
        self.endpoint, self._creator = self._read()
        setattr(self.endpoint, self._attribute, self)

    def _read(self) -> tuple[Any, Any]:
        check_files(self._description)
        with _strict_ciphers():
            endpoint: Any = serverFromString(self._reactor, self._description)
        creator = getattr(endpoint, self._attribute)
        if hasattr(creator, "getContext"):
            # Raises if the key does not fit the certificate.
            write_whole_blocks(creator.getContext())
        look_up = getattr(creator, "_contextLookup", None)  # By host name, for a directory.
        if look_up is not None and look_up(None, False) is None:
            raise ValueError(
                "expected a directory of *.pem files with a key, and a certificate for it with"
                " subjectAltName"
            )
        if look_up is not None:
            # Twisted reads the directory again for each name that is not in it, whoever asks.
            creator._contextLookup = partial(_look_up_only, look_up)
        write_whole_blocks(getattr(creator, "defaultContext", None))
        return endpoint, creator

    def serverConnectionForTLS(self, protocol: Any) -> Any:
        """Return a `Lendable` connection, so that helper threads can encrypt blobs."""
        make = getattr(self._creator, "serverConnectionForTLS", None)
        # Twisted's CertificateOptions are contexts only before version 26.
        made = partial(make, protocol) if make else partial(self._bare, self._creator)
        return Lendable(made, Handshake(protocol, self._handshakes))

    @staticmethod
    def _bare(creator: Any) -> Connection:
        return Connection(creator.getContext(), None)

    def reload(self) -> None:
        """Read the files again; if they cannot be used, the certificate stays as it was."""
        self._stamp = self._look()
        try:
            _, self._creator = self._read()
        except Exception as error:
            log.error(
                "{files}: not reloaded, the certificate stays as it was: {error}",
                files=" ".join(certificate_files(self._description)) or self._description,
                error=reason_of(error),
            )
        else:
            log.info("{files}: reloaded", files=" ".join(certificate_files(self._description)))

    def reload_if_changed(self) -> None:
        """Call `reload` if a file has changed."""
        if self._look() != self._stamp:
            self.reload()

    def _look(self) -> tuple[object, ...]:
        found: list[object] = []
        for path in certificate_files(self._description):
            try:
                seen = os.stat(path)
            except OSError:
                continue
            found.append((path, seen.st_mtime_ns, seen.st_size, seen.st_ino))
        return tuple(found)


@define(eq=False, repr=False)
class Certificates:
    """The certificates of all endpoints."""

    _reactor: Any
    _clock: IReactorTime
    _handshakes: Handshakes = field(init=False)
    _renewed: list[Renewed] = field(factory=list, init=False)
    _loop: Optional[LoopingCall] = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._handshakes = Handshakes(self._reactor)

    def endpoint(self, description: str) -> IStreamServerEndpoint:
        """Make an endpoint, and renew its certificates if it has any."""
        if not has_certificates(description):
            plain: IStreamServerEndpoint = serverFromString(self._reactor, description)
            return plain
        self._renewed.append(Renewed(self._reactor, description, self._handshakes))
        return self._renewed[-1].endpoint

    def start(self) -> None:
        """Start watching the files."""
        if self._renewed:
            self._loop = LoopingCall(surviving(self._look, "looking for new certificates"))
            self._loop.clock = self._clock
            self._loop.start(LOOK_EVERY, now=False)

    def stop(self) -> None:
        """Stop watching the files."""
        if self._loop is not None and self._loop.running:
            self._loop.stop()

    def reload(self) -> None:
        """Read all certificates again."""
        for each in self._renewed:
            each.reload()

    def _look(self) -> None:
        for each in self._renewed:
            each.reload_if_changed()
