"""The proxy of a connection, by the environment's variables."""

from __future__ import annotations

from base64 import b64decode
from ipaddress import ip_network
from urllib.parse import quote

from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.no_proxy import Exempt
from yukari.config.proxies import Proxies, Proxy
from yukari.config.setting import InvalidSetting

PLAIN = Proxy("proxy.example", 3128)
USER_TEXT = st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs",)), max_size=20)


class ProxyTests(SynchronousTestCase):
    def test_a_url_with_or_without_its_scheme(self) -> None:
        for text, proxy in {
            "http://proxy.example:3128": PLAIN,
            "HTTP://Proxy.Example:3128/": PLAIN,
            "http://proxy.example:3128/proxy.pac?a=1#b": PLAIN,
            "proxy.example:3128//": PLAIN,
            "//proxy.example:3128": PLAIN,
            "http://proxy.example:": Proxy("proxy.example", 80),
            "proxy.example:3128": PLAIN,
            "proxy.example": Proxy("proxy.example", 80),
            "https://proxy.example": Proxy("proxy.example", 443, "https"),
            "http://[2001:DB8::1]:8080": Proxy("2001:db8::1", 8080),
            "http://10.0.0.1:8080": Proxy("10.0.0.1", 8080),
            "socks5://10.0.0.1": Proxy("10.0.0.1", 1080, "socks5"),
            "SOCKS5H://[::1]:80/": Proxy("::1", 80, "socks5h"),
            "socks://proxy.example:3128/": Proxy("proxy.example", 3128, "socks5h"),
            "socks5://me:p%40ss@h:1": Proxy("h", 1, "socks5", (b"me", b"p@ss")),
            "socks4a://me@h": Proxy("h", 1080, "socks4a", (b"me", b"")),
            "http://b\xfccher.example:3128": Proxy("xn--bcher-kva.example", 3128),
            "proxy.example:3128;": PLAIN,
        }.items():
            self.assertEqual(Proxy.parse(text), proxy)

    def test_error_names_a_proxy_by_host_and_port_only(self) -> None:
        proxy = Proxy.parse("http://me:secret@[2001:db8::1]:8080")
        self.assertEqual(str(proxy), "[2001:db8::1]:8080")
        self.assertNotIn(proxy.authorization or "", repr(proxy))

    @given(USER_TEXT, USER_TEXT)
    def test_user_and_password_may_be_percent_encoded(self, user: str, password: str) -> None:
        assume(":" not in user and "\x7f" not in user + password)
        proxy = Proxy.parse(f"http://{quote(user, '')}:{quote(password, '')}@proxy.example:3128")
        scheme, _, told = (proxy.authorization or "").partition(" ")
        self.assertEqual((scheme, b64decode(told).decode()), ("Basic", f"{user}:{password}"))
        self.assertEqual((proxy.host, proxy.port), ("proxy.example", 3128))

    def test_a_password_may_contain_a_plain_at_sign(self) -> None:
        proxy = Proxy.parse("http://me:p@ss@proxy.example:3128")
        self.assertEqual(b64decode((proxy.authorization or "")[6:]), b"me:p@ss")

    def test_other_urls_are_refused(self) -> None:
        for text in (
            *(
                "socks3://p:1",
                "socks5://:p@p:1",
                "socks4://a%00b@p:1",
                "ftp://p",
                "http://",
                "http://:3128",
                "://p:1",
            ),
            f"socks5://u:{'p' * 256}@p:1",
            *("http://p:0", "http://p:65536", "http://p:port"),
            *("http://a b:1", "http://[::1", "http://u:p@", "http://a%3Ab:p@p:1"),
            "http://u:p%0D%0AX: y@p:1",
        ):
            with self.assertRaises(InvalidSetting, msg=text):
                Proxy.parse(text)

    @given(USER_TEXT, USER_TEXT, st.sampled_from(("", "http://", "socks5://", "://")))
    def test_no_error_repeats_the_credentials(self, user: str, word: str, scheme: str) -> None:
        password = f"hunter2{word}"
        said = self.ignored(f"{scheme}{user}:{password}@proxy.example:99999")
        self.assertNotIn("hunter2", said)
        self.assertTrue(said.startswith("HTTPS_PROXY '"), said)
        self.assertIn("***@proxy.example:99999': expected ", said)

    @given(st.sampled_from(("", "http://", "socks5://")), st.sampled_from(("", "x", "/", "a://")))
    def test_no_error_repeats_them_if_the_host_is_missing(self, scheme: str, word: str) -> None:
        for text in (f"me:{word}hunter2", f"me:{word}@{word}:hunter2", f"me:{word}hunter2@"):
            self.assertNotIn("hunter2", self.ignored(f"{scheme}{text}"))

    def ignored(self, text: str) -> str:
        """The warning of a proxy that cannot be read."""
        proxies = Proxies.read({"HTTPS_PROXY": text})
        self.assertIsNone(proxies.https)
        (said,) = proxies.ignored
        return said


class ReadTests(SynchronousTestCase):
    def of(self, **environment: str) -> tuple[str, str]:
        """The proxies' names for http and https, "" for none."""
        proxies = Proxies.read(environment)
        return str(proxies.http or ""), str(proxies.https or "")

    def test_each_scheme_has_its_own_and_all_proxy_is_for_the_rest(self) -> None:
        self.assertEqual(self.of(), ("", ""))
        self.assertEqual(self.of(http_proxy="h:1"), ("h:1", ""))
        self.assertEqual(self.of(https_proxy="s:2"), ("", "s:2"))
        self.assertEqual(self.of(all_proxy="a:3"), ("a:3", "a:3"))
        self.assertEqual(self.of(https_proxy="s:2", all_proxy="a:3"), ("a:3", "s:2"))

    def test_capitals_work_and_small_letters_win(self) -> None:
        self.assertEqual(self.of(HTTP_PROXY="h:1", HTTPS_PROXY="s:2"), ("h:1", "s:2"))
        self.assertEqual(self.of(ALL_PROXY="a:3"), ("a:3", "a:3"))
        self.assertEqual(self.of(HTTPS_PROXY="s:2", https_proxy="t:4"), ("", "t:4"))
        self.assertEqual(self.of(HTTPS_PROXY="s:2", https_proxy=" "), ("", "s:2"))

    def test_no_proxy_has_hosts_between_commas_and_spaces(self) -> None:
        proxies = Proxies.read({"all_proxy": "p:1", "NO_PROXY": "a.example, b.example  10.1.1.1"})
        for host in ("a.example", "b.example", "10.1.1.1"):
            self.assertIsNone(proxies.proxy("https", (host, 443)))
        self.assertEqual(str(proxies.proxy("https", ("c.example", 443))), "p:1")

    def test_loopback_goes_through_the_proxy_unless_exempt(self) -> None:
        proxies = Proxies.read({"all_proxy": "p:1"})
        for host in ("localhost", "127.0.0.1", "::1"):
            self.assertIsNotNone(proxies.proxy("http", (host, 80)))

    def test_either_name_of_a_place_may_be_exempt(self) -> None:
        proxies = Proxies.read({"all_proxy": "p:1", "no_proxy": "10.0.0.0/8"})
        self.assertIsNone(proxies.proxy("https", ("registry.example", 443), ("10.1.2.3", 443)))

    def test_a_variable_that_cannot_be_read_is_ignored_and_the_others_are_not(self) -> None:
        """The variables are not Yukari's: one that another program wants must not end a start."""
        proxies = Proxies.read(
            {"ALL_PROXY": "socks3://me:secret@old:1", "HTTPS_PROXY": "s:2", "no_proxy": "a,x!y,b"}
        )
        self.assertEqual((proxies.http, str(proxies.https)), (None, "s:2"))
        self.assertEqual(len(proxies.exempt), 2)
        every, exempt = proxies.ignored
        self.assertIn("ALL_PROXY 'socks3://***@old:1': expected http://", every)
        self.assertEqual(exempt, "no_proxy: 'x!y'")

    def test_all_proxy_by_socks_stands_beside_https_proxy(self) -> None:
        proxies = Proxies.read({"ALL_PROXY": "socks5://a:1", "HTTPS_PROXY": "http://s:2"})
        self.assertEqual((proxies.http, proxies.https), (Proxy("a", 1, "socks5"), Proxy("s", 2)))
        self.assertEqual(proxies.ignored, ())

    def test_no_proxy_without_a_proxy_is_not_read(self) -> None:
        self.assertEqual(Proxies.read({"NO_PROXY": "!"}), Proxies())

    @given(st.text(st.characters(exclude_categories=("Cs",))), st.text())
    @example("\0", "[")
    @example("http://[", "::1/129,[::1")
    def test_no_value_of_the_variables_stops_the_start(self, proxy: str, exempt: str) -> None:
        for each in (proxy, "p:1"):
            proxies = Proxies.read({"HTTPS_PROXY": each, "NO_PROXY": exempt})
            for warning in proxies.ignored:
                self.assertTrue(warning.isprintable() and len(warning) < 400, warning)
            proxies.proxy("https", ("registry.example", 443), ("10.0.0.1", 443))


class ExemptTests(SynchronousTestCase):
    def assert_covers(self, entry: str, *places: tuple[str, int]) -> None:
        for place in places:
            self.assertTrue(Exempt.parse(entry).covers(*place), (entry, place))

    def assert_not(self, entry: str, *places: tuple[str, int]) -> None:
        for place in places:
            self.assertFalse(Exempt.parse(entry).covers(*place), (entry, place))

    def test_a_domain_matches_itself_and_its_subdomains(self) -> None:
        for entry in ("example.com", ".example.com", "*.example.com", "Example.COM."):
            self.assert_covers(entry, ("example.com", 1), ("a.b.example.com", 2))
            self.assert_covers(entry, ("EXAMPLE.com.", 1))
            self.assert_not(entry, ("notexample.com", 1), ("com", 1), ("example.com.org", 1))

    def test_a_star_matches_every_host(self) -> None:
        self.assert_covers("*", ("example.com", 1), ("10.0.0.1", 2), ("::1", 3))

    def test_a_port_matches_only_that_port(self) -> None:
        for entry, host in (
            ("example.com:8443", "a.example.com"),
            ("10.0.0.1:8443", "10.0.0.1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
        ):
            self.assert_covers(entry, (host, 8443))
            self.assert_not(entry, (host, 443))

    def test_addresses_are_compared_as_numbers(self) -> None:
        self.assert_covers("2001:DB8:0:0::1", ("2001:db8::1", 443))
        self.assert_covers("[2001:db8::1]", ("2001:db8::1", 443))
        self.assert_not("10.0.0.1", ("10.0.0.10", 443), ("a.10.0.0.1", 443), ("::1", 443))

    @given(st.ip_addresses(), st.integers(0, 32), st.ip_addresses())
    def test_a_network_matches_the_addresses_in_it(
        self, base: object, bits: int, other: object
    ) -> None:
        entry = f"{base}/{bits}"
        self.assert_covers(entry, (str(base), 443))
        network = ip_network(entry, strict=False)
        mapped = getattr(other, "ipv4_mapped", None)
        inside = other in network or (mapped is not None and mapped in network)
        self.assertEqual(Exempt.parse(entry).covers(str(other), 443), inside)
        self.assert_not(entry, ("example.com", 443))

    def test_forms_of_other_programs_are_read(self) -> None:
        """Those of Windows, Java, Docker and Go, and people's own; none may end a start."""
        for text, exempt, proxied in (
            ("192.168.*", ("192.168.1.2",), ("192.169.1.2", "192.168.example.com")),
            ("10.*;172.16.*.*", ("10.1.2.3", "172.16.0.9"), ("110.1.2.3", "172.17.0.1")),
            ("192.168.", ("192.168.7.7",), ("192.16.8.1",)),
            ("<local>", ("registry", "localhost"), ("registry.example", "10.0.0.1", "::1")),
            ("<LOCAL>;<-loopback>;*.corp", ("host", "a.corp"), ("a.example",)),
            ("localhost|*.corp|host-*", ("localhost", "x.corp", "host-7.example"), ("ghost-7",)),
            ("registry.*", ("registry.example",), ("a.registry.example",)),
            ("*example.com", ("myexample.com", "a.example.com"), ("example.com.org",)),
            ("/var/run/docker.sock,unix:///run/x.sock,corp", ("corp",), ("var", "run")),
            ("npipe:////./pipe/docker_engine corp", ("corp",), ("pipe",)),
            ("http://corp:8080/, https://b.example/", ("b.example",), ("corp",)),
            ('"corp"', ("corp",), ("a",)),
            ("10/8,192.168/16", ("10.200.0.1", "192.168.1.1"), ("11.0.0.1",)),
            ("192.168.0.0/255.255.0.0,10.1.2.3/8", ("192.168.9.9", "10.9.9.9"), ("192.1.1.1",)),
            ("[fd00::]/8,fe80::1%eth0", ("fd12::1", "fe80::1"), ("fe80::2",)),
            ("10.0.0.0/8:443,corp:*", ("10.1.1.1", "corp"), ("11.1.1.1",)),
            ("10.0.0.0/8", ("::ffff:10.1.1.1",), ("::1",)),
            ("::ffff:10.1.1.1 ::ffff:10.2.0.0/112", ("10.1.1.1", "10.2.9.9"), ("10.1.1.2",)),
            ("https://a.example:443/v2/ //corp /x", ("a.example", "corp"), ("v2", "x")),
            ("bücher.example", ("xn--bcher-kva.example",), ("bucher.example",)),
            ("10.0.0.1-9", ("10.0.0.1", "10.0.0.9"), ("10.0.0.10", "10.0.0.0")),
            ("10.0.0.200-10.0.2.1", ("10.0.1.0", "10.0.2.1"), ("10.0.0.199", "10.0.2.2")),
        ):
            proxies = Proxies.read({"https_proxy": "p:1", "no_proxy": text})
            self.assertEqual(proxies.ignored, (), text)
            for host in exempt:
                self.assertIsNone(proxies.proxy("https", (host, 443)), (text, host))
            for host in proxied:
                self.assertIsNotNone(proxies.proxy("https", (host, 443)), (text, host))

    def test_a_hostile_host_does_not_slow_a_pattern_down(self) -> None:
        """A redirect may lead to any host; a regular expression that backtracks would hang."""
        for pattern in ("1*1*1*1*1*2", "a*a*a*a*a*a*b"):
            self.assert_not(pattern, (pattern[0] * 250, 443))

    def test_an_entry_that_names_no_host_is_refused(self) -> None:
        for text in (
            *(
                "10.0.0.0/33",
                "10.0.0.256",
                "10.0.0.9-1",
                "a:0",
                "a:65536",
                "a:b",
                "a/b",
                "",
                "x!y",
                "$no_proxy",
            ),
            *("[a]", "[::1", "::1:g", ".", "*.", "a..b", "192.168", "a?b", "u@h"),
        ):
            with self.assertRaises(InvalidSetting, msg=text):
                Exempt.parse(text)
