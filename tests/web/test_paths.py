"""Any path of a request: a clear answer, and only valid names beyond it."""

from __future__ import annotations

import json
from typing import Any, Union

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.sending.doubles import Growing, Shelf, Talk
from tests.strategies import blob_digests, model_names, references
from yukari.fills.fill import Fill
from yukari.library.manifests import FoundManifest
from yukari.manifest import Variant
from yukari.names import Digest, Reference, Repository
from yukari.storage.readable import Readable

DIGEST = "sha256:" + "ab" * 32

SEGMENTS = (
    ("", ".", "..", "...", "%2e%2e", "%2E%2e", "%252e%252e", "..%2f..", "%2f", "%5c..%5c", "..;")
    + ("%00", "a%00b", "%c0%ae%c0%ae", "%e2%80%ae", "%uff0e", "%", "%zz", "~", "\x7f", "\xff")
    + ("v2", "manifests", "blobs", "tags", "list", "fills", "healthz", "library", "m", "latest")
    + ("etc", "passwd", "C:", "con", "-m", "--help", "$(id)", "'", '"', "<script>", "{{7*7}}")
    + ("a" * 81, "A" * 3000, "sha256:", DIGEST, DIGEST.upper(), DIGEST.replace(":", "-"), "_m")
)
TRAVERSALS = tuple(
    f"/v2/{up}/{up}/{kind}/{last}"
    for up in ("..", "%2e%2e", "%252e%252e", "..%2f..%2f..", "%c0%ae%c0%ae", "..%5c..", ".")
    for kind in ("manifests", "blobs", "tags")
    for last in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "list", DIGEST, "..")
)


@define(eq=False)
class Strict(Shelf):
    """Keeps what it was asked for."""

    asked: list[object] = field(factory=list)

    async def manifest(
        self,
        name: Repository,
        reference: Reference,
        user_agent: str,
        variant: Variant = Variant.PLAIN,
        *,
        prefetch: bool,
    ) -> FoundManifest:
        self.asked += [name, reference]
        return await super().manifest(name, reference, user_agent, variant, prefetch=prefetch)

    async def blob(self, name: Repository, digest: Digest, host: str = "") -> Union[Readable, Fill]:
        self.asked += [name, digest]
        return await super().blob(name, digest)


def paths() -> st.SearchStrategy[str]:
    """Paths of anything but blanks, and of pieces that mean something somewhere."""
    made = st.lists(st.sampled_from(SEGMENTS), max_size=7).map("/".join)
    below = st.sampled_from(("/", "/v2/", "/v2/library/m/", "/fills/", "//", "http://h/", ""))
    any_text = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=60)
    blank = str.maketrans("", "", " \t\r\n\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0*")
    return st.builds("{}{}".format, below, st.one_of(made, any_text)).map(
        lambda path: path.translate(blank) or "/"
    )


class PathTests(SynchronousTestCase):
    def reply(self, path: str, *, method: str = "GET") -> Any:
        talk = Talk(Strict(), peer=IPv4Address("TCP", "127.0.0.1", 4711))
        with capturedLogs() as events:
            talk.ask(path, method=method)
        self.assertEqual([event for event in events if "log_failure" in event], [])
        (reply,) = talk.replies(method)
        return reply

    @given(paths(), st.sampled_from(("GET", "HEAD")))
    def test_any_path_is_answered(self, path: str, method: str) -> None:
        reply = self.reply(path, method=method)
        # 403 for /fills by a name that is not this machine's.
        self.assertIn(reply.status, (200, 400, 403, 404), path)

    @given(paths())
    def test_a_refusal_is_json_in_plain_ascii(self, path: str) -> None:
        reply = self.reply(path)
        if reply.status != 200 and path.isascii():  # else Twisted has refused it with a bare 400
            (error,) = json.loads(reply.body)["errors"]
            self.assertTrue(error["message"].isascii() and error["message"].isprintable())
            self.assertLess(len(error["message"]), 400)

    def test_paths_with_dots_are_refused(self) -> None:
        for path in TRAVERSALS:
            self.assertIn(self.reply(path).status, (400, 404), path)

    @given(model_names(), references())
    def test_names_arrive_as_they_were_sent(self, name: Repository, reference: Reference) -> None:
        shelf = Strict()
        talk = Talk(shelf)
        talk.ask(f"/v2/{name}/manifests/{reference}")
        self.assertEqual(shelf.asked, [name, reference])

    @given(model_names(), blob_digests())
    def test_names_may_be_escaped_once(self, name: Repository, digest: Digest) -> None:
        shelf = Strict()
        talk = Talk(shelf)

        def escaped(text: str) -> str:
            return "".join(f"%{ord(each):02x}" for each in text)

        once = [escaped(part) for part in (name.namespace, name.model, str(digest))]
        talk.ask("/v2/{}/{}/blobs/{}".format(*once))
        self.assertEqual(shelf.asked, [name, digest])
        twice = [part.replace("%", "%25") for part in once]
        talk.ask("/v2/{}/{}/blobs/{}".format(*twice))
        self.assertEqual(shelf.asked, [name, digest])
        self.assertEqual([reply.status for reply in talk.replies()], [404, 400])

    def test_the_location_of_a_whole_blob_is_its_own_path(self) -> None:
        talk = Talk()
        path = talk.shelf.put(Growing(b"abc", in_file=False))
        talk.ask(f"{path}?x=1")
        (reply,) = talk.replies()
        self.assertEqual(reply.headers["location"], path)
