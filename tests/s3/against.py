"""The base of tests against a server: a bucket of their own and a client of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Optional

from botocore.session import Session
from twisted.internet import reactor as _reactor
from twisted.trial.unittest import SkipTest, TestCase

from tests.s3.proxy import Proxy
from tests.s3.servers import ACCESS, CEPH, MOTO, SECRET, Server
from yukari.config.proxies import Proxies
from yukari.net.agent import Connections
from yukari.s3.client import S3Client
from yukari.s3.credentials import AccessKeys
from yukari.s3.location import BucketPlace
from yukari.s3.signing import Signing
from yukari.threads import DISK_THREADS, Threads

reactor: Any = _reactor
_count = itertools.count(1)
_session = Session()
"""Its parsed models of S3 serve all clients; each test would take a fifth of a second longer."""
KEYS = AccessKeys(ACCESS, SECRET, None, None)


class Given:
    """Credentials as they are given."""

    def __init__(self, keys: AccessKeys = KEYS) -> None:
        self.given = keys

    async def keys(self) -> AccessKeys:
        return self.given


class AgainstServer(TestCase):
    """A bucket and a client; `server` is the subclass's."""

    server: Optional[Server] = None

    def run(self, result: Any) -> None:
        """Its server is there before the test's time begins to run."""
        if self.server is not None and self.server.missing() is None:
            self.server.up()
        super().run(result)

    async def setUp(self) -> None:
        if self.server is None:
            raise SkipTest("of the subclasses")
        missing = self.server.missing()
        if missing is not None:
            raise SkipTest(missing)
        self.bucket = f"bucket-{next(_count)}"
        self.threads = Threads(reactor, "disk", DISK_THREADS)
        self.threads.start()
        self.addCleanup(self.threads.stop)
        self.client = self.client_at(self.server.endpoint())
        await self.client._call("create_bucket")

    def client_at(
        self,
        endpoint: str,
        *,
        keys: AccessKeys = KEYS,
        bucket: Optional[str] = None,
        proxies: Optional[Proxies] = None,
    ) -> S3Client:
        connections = Connections(reactor, 16, proxies=proxies or Proxies())
        self.addCleanup(connections.close)
        place = BucketPlace(endpoint, "us-east-1", bucket or self.bucket, True)
        given: Any = Given(keys)
        return S3Client(Signing(_session, place), given, connections.agent, reactor)

    async def through_proxy(self) -> tuple[Proxy, S3Client]:
        """A proxy in front of the server, and a client that uses it."""
        assert self.server is not None
        proxy = Proxy(reactor, self.server.port)
        endpoint = await proxy.start()
        self.addCleanup(proxy.stop)
        return proxy, self.client_at(endpoint)


def for_each_server(*cases: type[AgainstServer]) -> Callable[[dict[str, Any]], None]:
    """Puts a subclass for each server into a module, in the place of each case."""

    def put(module: dict[str, Any]) -> None:
        for case in cases:
            for server in (MOTO, CEPH):
                name = f"{server.name}{case.__name__}"
                made = type(name, (case,), {"server": server, "__module__": case.__module__})
                module[name] = made
            module.pop(case.__name__, None)

    return put
