"""What a registry wants to be shown, as its header says it; and whose realms are whose."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.urls import RegistryUrl
from yukari.sources.challenge import LONGEST, Challenge, Origin, challenges

OLLAMA = 'Bearer realm="https://ollama.com/token",service="ollama.com",scope="repository:a/b:pull"'
TOKENS = st.text(alphabet="abcXYZ-_.~!", min_size=1, max_size=12)
VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class HeaderTests(SynchronousTestCase):
    def test_ollamas_own(self) -> None:
        found = Challenge.parse(OLLAMA)
        self.assertEqual(
            found, Challenge("https://ollama.com/token", (), "ollama.com", "repository:a/b:pull")
        )

    def test_however_it_is_written(self) -> None:
        expected = Challenge("https://r/t", (), "s", "x")
        for header in (
            'Bearer realm="https://r/t",service="s",scope="x"',
            'bearer Realm="https://r/t" , SERVICE="s"  ,scope=x',
            'BEARER realm=https://r/t, service = s, scope = "x"',
            'Basic realm="other, Bearer realm=\\"no\\"", Bearer realm="https://r/t",service=s,scope=x',
            'Negotiate, NTLM dG9rZW4=, Bearer realm="https://r/t",service=s,scope=x',
            'Negotiate abc/def==, bearer realm="https://r/t",service=s,scope=x, Basic realm="b"',
            ',, Bearer realm="https:\\//r/t",service="s",scope="x",error="invalid_token"',
            'Bearer realm="https://r/t",realm="https://evil/t",service="s",scope="x"',
        ):
            self.assertEqual(Challenge.parse(header), expected, header)
            self.assertEqual(Challenge.parse('Basic realm="x"', header), expected, header)

    def test_what_cannot_be_answered_is_none(self) -> None:
        for header in (
            "",
            "Bearer",
            "Bearer ,",
            'Basic realm="https://r/t"',
            'Bearer service="s"',
            'Bearer realm="https://r/t',
            'Bearer realm=""',
            'Bearer realm="/token"',
            'Bearer realm="//r/t"',
            'Bearer realm="ftp://r/t"',
            'Bearer realm="https://user@r/t"',
            'Bearer realm="https://user:word@r/t"',
            'Bearer realm="https://r\\\\@evil/t"',
            'Bearer realm="https://r:99999/t"',
            'Bearer realm="https://r/t#fragment"',
            'Bearer realm="https://r t/t"',
            'Bearer realm="https://\u00e9/t"',
            'Bearer realm="https:///t"',
            'Bearer realm="https://[::1/t"',
            'Bearer realm="https://[:::::]/t"',
            f'Bearer realm="https://r/t?{"&".join("x=1" for _ in range(100))}"',
            f'Bearer realm="https://r/t",scope="{"x " * 100}"',
            f'Bearer realm="https://r/{"t" * LONGEST}"',
            "x=1," * 2000 + OLLAMA,
        ):
            self.assertIsNone(Challenge.parse(header), header[:100])

    def test_many_headers_are_not_read_to_their_end(self) -> None:
        self.assertIsNone(Challenge.parse(*["Basic realm=x"] * 2000, OLLAMA))

    @given(st.lists(st.tuples(TOKENS, st.dictionaries(TOKENS, VALUES, max_size=4)), max_size=8))
    def test_what_is_written_is_read_again(self, given: list[tuple[str, dict[str, str]]]) -> None:
        lower = [
            (scheme.lower(), {name.lower(): text for name, text in reversed(fields.items())})
            for scheme, fields in given
        ]
        text = ", ".join(
            f"{scheme} " + ", ".join(f"{name}={quoted(text)}" for name, text in fields.items())
            for scheme, fields in given
        )
        self.assertEqual(challenges(text), lower)

    @given(st.text(alphabet='Bearer realm="https://x/,=\\\t service', max_size=200) | st.text())
    def test_no_text_raises(self, text: str) -> None:
        challenges(text)
        Challenge.parse(text, text)


class UrlTests(SynchronousTestCase):
    def test_a_realms_own_query_is_kept_and_the_keys_are_sorted(self) -> None:
        found = Challenge.parse('Bearer realm="https://r/t?z=1&a=&b=x%2Fy",service="s",scope="p q"')
        assert found is not None
        url = found.url(("ts", "5"), ("nonce", "n"))
        self.assertEqual(url, "https://r/t?a=&b=x%2Fy&nonce=n&scope=p&scope=q&service=s&ts=5&z=1")
        self.assertEqual(urlsplit(url).netloc, "r")

    def test_characters_that_no_url_has_are_encoded_as_clients_do(self) -> None:
        for realm, url in (
            ("https://r/t t", "https://r/t%20t?scope=x"),
            ("https://r/t%20t", "https://r/t%20t?scope=x"),
            ("https://r/t?a=b c&d=e+f", "https://r/t?a=b+c&d=e+f&scope=x"),
            ("https://r/\u00c3\u00a9", "https://r/%C3%A9?scope=x"),  # UTF-8, as headers are read
            ("https://r/<t>|", "https://r/%3Ct%3E%7C?scope=x"),
        ):
            found = Challenge.parse(f'Bearer realm="{realm}",scope=x')
            assert found is not None, realm
            self.assertEqual(found.url(), url)

    def test_a_realm_without_a_path_is_the_root(self) -> None:
        found = Challenge.parse('Bearer realm="https://r:8443?a=b",scope=x')
        assert found is not None
        self.assertEqual(found.url(), "https://r:8443/?a=b&scope=x")

    @given(VALUES, VALUES)
    def test_no_value_can_add_another_field(self, service: str, scope: str) -> None:
        url = Challenge("https://r/t", (), service, scope).url()
        found = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        expected = [("scope", word) for word in scope.split()]
        self.assertEqual(found, expected + ([("service", service)] if service else []))


class OriginTests(SynchronousTestCase):
    def test_whose_realms_are_a_registrys(self) -> None:
        for registry, realm, same in (
            ("https://registry.ollama.ai", "https://registry.ollama.ai/token", True),
            ("https://registry.ollama.ai", "https://REGISTRY.ollama.AI:443/token", True),
            ("https://registry.ollama.ai", "https://ollama.com/token", True),
            ("https://registry.ollama.ai", "https://auth.ollama.com/token", True),
            ("https://registry.ollama.ai", "http://ollama.com/token", False),
            ("https://registry.ollama.ai", "http://registry.ollama.ai/token", False),
            ("https://registry.ollama.ai", "https://ollama.com.evil.test/token", False),
            ("https://registry.ollama.ai", "https://notollama.com/token", False),
            ("https://registry.ollama.ai", "https://huggingface.co/v2/token", False),
            ("https://hf.co", "https://huggingface.co/v2/token", True),
            ("https://hf.co", "https://hf.co/v2/token", True),
            ("https://hf.co", "https://ollama.com/token", False),
            ("https://ghcr.io", "https://ghcr.io/token", True),
            ("https://ghcr.io", "https://auth.ghcr.io/token", False),
            ("https://evil.test", "https://ollama.com/token", False),
            ("https://r.test:8443", "https://r.test:8443/token", True),
            ("https://r.test:8443", "https://r.test/token", False),
            ("http://r.test:5000", "http://r.test:5000/token", True),
            ("http://r.test:5000", "https://r.test:5000/token", False),
            ("http://[::1]:5000", "http://[::1]:5000/token", True),
            ("https://ghcr.io", "https://ghcr.io:0/token", False),
            ("https://ghcr.io", "https://ghcr.io./token", False),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000/token", False),
        ):
            origin = Origin.of(realm)
            assert origin is not None
            self.assertEqual(origin.is_of(RegistryUrl.parse(registry)), same, (registry, realm))
