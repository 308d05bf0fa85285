"""What the verbs say of hosts that are no cache, and of registries that do not answer."""

from __future__ import annotations

import io
import json
import os
import ssl
from collections.abc import Callable
from typing import Any, Optional

from attrs import define, field
from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from yukari.cli import store, transfer
from yukari.cli.client import IS_IT_ONE, Cache, CacheError
from yukari.cli.versions import ASKED_TOGETHER, _compare_all
from yukari.descriptors import Descriptor
from yukari.library.models.archive import Packed
from yukari.names import Digest


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

    def test_urls_that_no_cache_can_have_are_refused(self) -> None:
        """The first ended with a traceback; of the others a part was ignored."""
        for url in ("http://a..b:9200", "http://host/status", "host:9200/x", "http://host?x=1"):
            self.assertRaises(CacheError, Cache, url)

    def test_errors_of_tls_say_what_to_do(self) -> None:
        """They were Python's: ``[SSL: WRONG_VERSION_NUMBER] wrong version number``."""
        cache = Cache("https://host")
        self.assertIn("is it http://?", str(cache._unreachable(ssl.SSLError(1, "[SSL]"))))
        untrusted = ssl.SSLCertVerificationError(1, "[SSL]")
        untrusted.verify_message = "self-signed certificate"
        self.assertIn("SSL_CERT_FILE", str(cache._unreachable(untrusted)))


class SeveralModelsTests(SynchronousTestCase):
    def invoke(self, ask: Callable[..., Any]) -> Result:
        self.patch(Cache, "ask", ask)
        return CliRunner().invoke(store.rm, ["a", "b", "c"])

    def test_a_model_that_fails_does_not_keep_the_next_from_being_removed(self) -> None:
        def ask(_: Cache, method: str, path: str, body: dict[str, str]) -> None:
            if body["model"] == "b":
                raise CacheError("not found", 404)

        ran = self.invoke(ask)
        self.assertEqual(ran.exit_code, 1)
        self.assertEqual(ran.output, "removed a\nyukari: b: not found\nremoved c\n")

    def test_a_cache_that_does_not_answer_is_not_asked_again(self) -> None:
        def ask(_: Cache, method: str, path: str, body: dict[str, str]) -> None:
            raise CacheError("no answer")

        self.assertEqual(self.invoke(ask).output, "yukari: no answer\n")


class ArchiveFileTests(SynchronousTestCase):
    def test_a_device_is_written_to_and_not_replaced(self) -> None:
        """As root, ``-o /dev/null`` put a file in its place."""
        reading, writing = os.pipe()
        self.patch(transfer, "_write", lambda cache, models, file: file.write(b"tar"))
        ran = CliRunner().invoke(transfer.export, ["m", "-o", f"/dev/fd/{writing}"])
        os.close(writing)
        with open(reading, "rb") as pipe:
            self.assertEqual(pipe.read(), b"tar")
        self.assertEqual((ran.exit_code, ran.output), (0, ""))

    def test_a_link_stays_and_its_target_is_replaced(self) -> None:
        link, target = self.mktemp(), os.path.abspath(self.mktemp())
        os.symlink(target, link)
        self.patch(transfer, "_write", lambda cache, models, file: file.write(b"tar"))
        CliRunner().invoke(transfer.export, ["m", "-o", link])
        self.assertTrue(os.path.islink(link))
        with open(target, "rb") as file:
            self.assertEqual(file.read(), b"tar")

    def test_an_export_that_breaks_off_ends_with_one_line_and_leaves_no_file(self) -> None:
        blob = Descriptor(Digest.of(b"0123456789"), 10, "application/octet-stream")
        model = transfer._Exported(Packed("h/n/m:t", blob.digest), "n/m", {}, [blob])
        self.patch(transfer._Exported, "of", lambda *_: model)
        for body, said in ((b"01234", "broke off"), (b"x123456789", "another digest")):
            self.patch(Cache, "open", lambda *_, body=body: io.BytesIO(body))
            output = os.path.join(self.mktemp(), "models.tar")
            os.mkdir(os.path.dirname(output))
            ran = CliRunner().invoke(transfer.export, ["m", "-o", output])
            self.assertEqual(ran.exit_code, 1)
            self.assertIn(said, ran.output)
            self.assertEqual(len(ran.output.splitlines()), 1, ran.output)
            self.assertEqual(os.listdir(os.path.dirname(output)), [])

    def test_an_archive_comes_from_a_pipe(self) -> None:
        """A pipe's size, 0, was announced to the cache."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.write(writing, b"tar")
        os.close(writing)
        sent: list[Any] = []

        def ask(_: Cache, method: str, path: str, body: Any, headers: Any, **__: Any) -> Any:
            sent.extend((b"".join(body), headers))
            return {"models": [], "written": 3, "skipped": 0}

        self.patch(Cache, "ask", ask)
        ran = CliRunner().invoke(transfer.import_, [f"/dev/fd/{reading}"])
        self.assertEqual(ran.exit_code, 0, ran.output)
        self.assertEqual(sent, [b"tar", {}])

    def test_an_error_that_nobody_expected_ends_the_reading_of_a_directory(self) -> None:
        """Whoever waited for the next piece waited for ever."""

        def fail(_: object) -> None:
            raise KeyError("unexpected")

        self.assertRaises(KeyError, list, transfer._piped(fail))


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
