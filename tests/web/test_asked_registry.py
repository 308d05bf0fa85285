"""Which registry a request is for, by its Host header, its listener and its path."""

from __future__ import annotations

from typing import Optional

from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from yukari.config.registry_names import RegistryNames
from yukari.errors import RegistryError
from yukari.names import DEFAULT
from yukari.web.asked_registry import MAX_HOSTS, AskedRegistry

LAB = "10.0.0.5:5000"
NAMES = RegistryNames(
    "registry.ollama.ai",
    {"hf.co": "hf.co", "lab.cache.lan": LAB},
    {"hf--": "hf.co", "lab--": LAB},
    (LAB, "hf.co", "hf.co+llama-cpp"),
    {"hf.co": "hf.co+llama-cpp"},
)


@define(eq=False)
class Site:
    registry: str = DEFAULT


@define(eq=False)
class Channel:
    is_proxy: bool


@define(eq=False)
class Asked:
    """As much of a request as is looked at."""

    site: Site
    channel: Channel
    requestHeaders: Headers

    @classmethod
    def of(cls, registry: str = DEFAULT, *, is_proxy: bool = False, **headers: str) -> Asked:
        raw = {name.replace("_", "-").encode(): [text.encode()] for name, text in headers.items()}
        return cls(Site(registry), Channel(is_proxy), Headers(raw))

    def getHeader(self, name: bytes) -> Optional[bytes]:
        found = self.requestHeaders.getRawHeaders(name)
        return found[-1] if found else None


class AskedRegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked = AskedRegistry(NAMES)

    def test_the_host_wins_over_the_port_and_both_over_the_prefix(self) -> None:
        for request, path, expected in (
            (Asked.of(), "a/m", "a/m"),
            (Asked.of(host="cache:9200"), "hf--a/m", "hf.co/a/m"),
            (Asked.of(host="hf.co"), "a/m", "hf.co/a/m"),
            (Asked.of(LAB, host="cache:9202"), "a/m", f"{LAB}/a/m"),
            (Asked.of(LAB, host="cache:9202"), "hf--a/m", f"{LAB}/hf--a/m"),
            (Asked.of(LAB, host="hf.co"), "a/m", "hf.co/a/m"),
            (Asked.of("hf.co", host="lab.cache.lan:80"), "a/m", f"{LAB}/a/m"),
            (Asked.of(LAB, host="cache"), "hf.co/a/m", "hf.co/a/m"),
            (Asked.of(LAB, host="cache"), "registry.ollama.ai/a/m", "a/m"),
            (Asked.of(host="hf.co", user_agent="llama-cpp"), "a/m", "hf.co+llama-cpp/a/m"),
            (Asked.of(user_agent="llama-cpp"), "a/m", "a/m"),
        ):
            found = self.asked.repository(request, path.split("/"))
            self.assertEqual(str(found), expected)

    def test_a_forwarded_host_counts_from_a_trusted_proxy_alone(self) -> None:
        for is_proxy, expected in ((True, "hf.co"), (False, DEFAULT)):
            request = Asked.of(is_proxy=is_proxy, host="cache", x_forwarded_host="hf.co")
            self.assertEqual(self.asked.of(request), expected)

    def test_a_registry_that_nobody_mirrors_is_not_found(self) -> None:
        asking = self.asked.repository
        error = self.assertRaises(RegistryError, asking, Asked.of(), ["quay.io", "a", "m"])
        self.assertEqual(error.status, 404)
        self.assertIn("quay.io", error.message)

    def test_a_path_that_names_no_registry_or_model_is_refused(self) -> None:
        for path in (["a", "\u00e9"], ["hf--", ""], ["hf.co", "a", ".."], ["lab--.x", "m"]):
            error = self.assertRaises(RegistryError, self.asked.repository, Asked.of(), path)
            self.assertEqual(error.status, 400, path)

    @given(st.text(st.characters(codec="latin-1"), max_size=1000))
    def test_any_other_host_is_nobodys_and_is_not_kept_for_ever(self, host: str) -> None:
        asked = AskedRegistry(NAMES)
        request = Asked.of(LAB)
        request.requestHeaders.setRawHeaders(b"host", [host.encode("latin-1")])
        (sent,) = request.requestHeaders.getRawHeaders(b"host") or [b""]  # As Twisted cleans it.
        name = sent.decode("latin-1").partition(":")[0].rstrip(".").lower()
        if name not in ("hf.co", "lab.cache.lan"):
            self.assertEqual(asked.of(request), LAB)
        self.assertLessEqual(sum(map(len, asked._by_host)), 300)

    def test_only_so_many_hosts_are_remembered(self) -> None:
        for number in range(2 * MAX_HOSTS):
            self.asked.of(Asked.of(host=f"h{number}.example"))
        self.assertEqual(len(self.asked._by_host), MAX_HOSTS)
        self.assertEqual(self.asked.of(Asked.of(host="hf.co")), "hf.co")
