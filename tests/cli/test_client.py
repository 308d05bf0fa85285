"""What the verbs say of hosts that are no cache, and of registries that do not answer."""

from __future__ import annotations

import json
from typing import Any, Optional

from attrs import define, field
from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from yukari.cli import store
from yukari.cli.client import IS_IT_ONE, Cache, CacheError
from yukari.cli.versions import ASKED_TOGETHER, _compare_all


class Fixed(Protocol):
    """Answers any request by the same bytes, and closes."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(self.factory.reply)  # type: ignore[union-attr]
        transport.loseConnection()


class OtherHostTests(TestCase):
    async def said(self, reply: bytes) -> str:
        """The error of a list of the models of a host that answers any request by ``reply``."""
        factory = Factory.forProtocol(Fixed)
        factory.reply = reply
        listening: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(listening.stopListening)
        cache = Cache(f"http://127.0.0.1:{listening.getHost().port}")
        failing = deferToThread(lambda: list(cache.models()))
        error = await self.assertFailure(failing, CacheError)
        return str(error)

    async def test_host_that_is_no_cache_is_asked_whether_it_is_one(self) -> None:
        for status, body in (
            ("404 Not Found", b"404 page not found"),
            ("404 Not Found", b"<html>nginx</html>"),
            ("401 Unauthorized", b""),
            ("302 Found", b"<a href='/login'>Found</a>"),
            ("200 OK", b"<html>It works!</html>"),
            ("200 OK", b'["a"]'),
        ):
            said = await self.said(f"HTTP/1.0 {status}\r\n\r\n".encode() + body)
            self.assertTrue(said.endswith(f": {IS_IT_ONE}"), said)
            self.assertIn("http://127.0.0.1:", said)

    async def test_the_error_of_a_cache_is_printed_in_its_words(self) -> None:
        for body in ({"error": "no"}, {"errors": [{"code": "DENIED", "message": "no"}]}):
            reply = b"HTTP/1.0 403 Forbidden\r\n\r\n" + json.dumps(body).encode()
            self.assertEqual(await self.said(reply), "no")


class UrlTests(SynchronousTestCase):
    def test_the_error_of_a_wrong_url_shows_no_password(self) -> None:
        for url in ("http://me:s3cr/t@host:9200", "ftp://me:s3crt@host", "http://me:s3crt@host:x"):
            error = self.assertRaises(CacheError, Cache, url)
            self.assertNotIn("s3cr", str(error))


class StatusTests(SynchronousTestCase):
    def test_every_registry_that_is_not_reached_is_named(self) -> None:
        """Only the default one was."""
        found = {"version": "1", "store": None, "fills": [], "ready": True}
        found["upstream"] = {"reachable": False, "error": "ollama is down"}
        found["other_upstreams"] = [
            {"reachable": True, "error": None},
            {"reachable": False, "error": "hf.co is down"},
        ]
        self.patch(Cache, "ask", lambda *_, **__: found)
        shown = CliRunner().invoke(store.status, []).output
        self.assertIn("ollama is down\nhf.co is down\n", shown)


@define
class Hanging:
    """A cache whose registry does not answer."""

    asked: list[str] = field(factory=list)

    def ask(self, method: str, path: str, body: Optional[dict[str, Any]] = None) -> Any:
        assert body is not None
        self.asked.append(body["model"])
        raise CacheError("upstream hf.co does not answer", 504)


class OutdatedTests(SynchronousTestCase):
    def test_registry_that_does_not_answer_is_asked_about_few_models(self) -> None:
        """Each of its models took half a minute, and the other registries' waited meanwhile."""
        cache: Any = Hanging()
        names = [f"hf.co/u/m{number}:latest" for number in range(50)]
        states = _compare_all(cache, names)
        self.assertEqual(list(states), names)
        self.assertLessEqual(len(cache.asked), ASKED_TOGETHER)
        for state in states.values():
            self.assertEqual(state["state"], "not checked: upstream hf.co does not answer")
