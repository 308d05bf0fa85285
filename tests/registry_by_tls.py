"""The emulated registry at ``https://registry.ollama.ai`` on 198.51.100.7: for test_transparent."""

from __future__ import annotations

import sys

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.portforward import ProxyFactory

from tests.authority import Authority
from tests.emulator import Emulator


async def main(directory: str) -> None:
    """Listen for ever; the root of its certificate is ``DIRECTORY/root.pem``."""
    from twisted.internet import reactor

    pem = Authority(directory).certificate("registry.ollama.ai")
    model = "library/llama3.2:latest=3MB,3000"
    upstream = await Emulator.start(reactor, [model], directory=directory, redirect=False, tls=True)
    host, port = upstream.url.removeprefix("http://").split(":")
    context = PrivateCertificate.loadPEM(pem).options()
    reactor.listenSSL(443, ProxyFactory(host, int(port)), context, interface="198.51.100.7")
    print("listens", flush=True)


if __name__ == "__main__":
    Deferred.fromCoroutine(main(sys.argv[1])).addErrback(lambda failure: failure.printTraceback())
    _reactor.run()  # type: ignore[attr-defined]
