"""What the emulated clients read, choose and refuse, without a connection."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

from twisted.trial.unittest import SynchronousTestCase

from tests.clients import CLASSIC16, CURRENT, Challenge, ClientError
from tests.clients.generations import LIST, MANIFEST
from tests.clients.lists import Child, chosen, needs_newer
from tests.clients.session import may_follow
from tests.clients.transfer import may_send


class ChallengeTests(SynchronousTestCase):
    """Challenges as Ollama reads them."""

    def test_quoted_values_are_read(self) -> None:
        found = Challenge.parse('Bearer realm="http://h/t?a=b",service="s",scope="x y"')
        self.assertEqual(found, Challenge("http://h/t?a=b", "s", "x y"))

    def test_what_is_not_there_is_empty(self) -> None:
        self.assertEqual(Challenge.parse("Basic"), Challenge("", "", ""))

    def test_the_realm_is_asked_with_sorted_keys(self) -> None:
        url = Challenge("http://h/t?z=1&a=b", "s", "x y").url()
        query = parse_qsl(urlsplit(url).query)
        names = [name for name, _ in query]
        self.assertEqual(names, ["a", "nonce", "scope", "scope", "service", "ts", "z"])
        self.assertEqual([value for name, value in query if name == "scope"], ["x", "y"])
        self.assertEqual(len(dict(query)["nonce"]), 22)


class RedirectTests(SynchronousTestCase):
    """Redirects that clients follow, and those that they do not."""

    def test_a_secure_client_stays_on_its_host_and_family(self) -> None:
        secure = CURRENT.scaled(insecure=False)
        for first, target, followed in (
            ("https://h/a", "https://h/b", True),
            ("https://h/a", "https://i/b", False),
            ("https://h/a", "https://h:444/b", False),
            ("https://hf.co/a", "https://huggingface.co/b", True),
            ("https://registry.ollama.ai/a", "https://ollama.com/b", True),
            ("https://hf.co/a", "https://ollama.com/b", False),
            ("https://hf.co/a", "https://nothf.co/b", False),
        ):
            self.assertEqual(may_follow(secure, first, target), followed, target)
            self.assertTrue(may_follow(CURRENT, first, target))
            self.assertTrue(may_follow(CLASSIC16.scaled(insecure=False), first, target))

    def test_the_transfer_client_goes_to_no_private_address_and_not_back_to_http(self) -> None:
        for base, target, secure, insecure in (
            ("https://h", "https://i/b", True, True),
            ("https://h", "http://h/b", False, False),
            ("http://h", "http://i/b", True, True),
            ("https://h", "https://10.0.0.1/b", False, True),
            ("https://h", "https://127.0.0.1/b", False, True),
            ("https://h", "https://100.64.0.1/b", False, True),
            ("https://h", "https://8.8.8.8/b", True, True),
            ("https://h", "ftp://h/b", False, False),
        ):
            self.assertEqual(may_send(base, target, insecure=False), secure, target)
            self.assertEqual(may_send(base, target, insecure=True), insecure, target)


def listed(*runners: str) -> bytes:
    """A list whose children's digests are their runners."""
    entries = [{"mediaType": MANIFEST, "digest": each, "runner": each} for each in runners]
    return json.dumps({"mediaType": LIST, "manifests": entries}).encode()


class ListTests(SynchronousTestCase):
    """Which child of a list is pulled."""

    def test_the_first_runner_in_its_order_is_chosen(self) -> None:
        self.assertEqual(chosen(listed("mlx", "ggml", "llamacpp")), Child("llamacpp"))
        self.assertEqual(chosen(listed("mlx", "ggml")), Child("ggml"))
        self.assertEqual(chosen(listed("mlx", "ggml"), "mlx"), Child("mlx"))

    def test_a_list_without_a_child_fails(self) -> None:
        for manifest, runner in ((listed("cuda"), None), (listed("ggml"), "mlx"), (b"no", None)):
            with self.assertRaises(ClientError):
                chosen(manifest, runner)

    def test_a_plain_manifest_has_no_child(self) -> None:
        self.assertIsNone(chosen(json.dumps({"mediaType": MANIFEST}).encode()))

    def test_an_inline_child_is_its_own_body(self) -> None:
        child = {"mediaType": MANIFEST, "config": {}, "layers": [], "runner": "ggml"}
        body = json.dumps({"mediaType": LIST, "manifests": [child]}).encode()
        found = chosen(body)
        assert found is not None
        self.assertEqual(json.loads(found.body), child)

    def test_a_config_may_want_a_newer_ollama(self) -> None:
        for config, wanted in (
            (b'{"requires":"0.41.0"}', "0.41.0"),
            (b'{"requires":"0.9.0"}', ""),
            (b"{}", ""),
            (b"no JSON", ""),
        ):
            self.assertEqual(needs_newer(config, "0.40.0"), wanted)
