"""Registries beside the default one: what UPSTREAMS may say, and what two of them may not share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase, digits

from attrs import evolve
from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.authority import Authority
from yukari.config.gathering import MAX_REGISTRIES, gather
from yukari.config.hours import DailyRate
from yukari.config.in_force import in_force
from yukari.config.keys import BearerToken
from yukari.config.listen import Bind
from yukari.config.parsers import one_of
from yukari.config.patterns import Patterns
from yukari.config.registries import (
    UPSTREAMS,
    RegistrySettings,
    host_candidates,
    parse_host,
    parse_name,
    parse_prefix,
    parse_upstream,
)
from yukari.config.setting import InvalidSetting, SettingError
from yukari.config.settings import Settings
from yukari.config.urls import Address, RegistryUrl

OLLAMA = RegistrySettings.default(RegistryUrl.parse("https://registry.ollama.ai/"))

_words = st.text(ascii_lowercase + digits + "_", min_size=1, max_size=6)
names = st.lists(_words, min_size=1, max_size=3).map("-".join)
"""Names that a registry may have."""


def upstreams(text: str) -> list[RegistrySettings]:
    """The registries that a value of UPSTREAMS names."""
    parsed = [parse_upstream(part) for part in text.split()]
    return [each for each in parsed if each is not None]


def registries(text: str) -> tuple[RegistrySettings, ...]:
    """All registries that there are with this value of UPSTREAMS."""
    return Settings.read({}, {"HOME": "/", "UPSTREAMS": text}).registries


def gathered(
    named: Sequence[RegistrySettings],
    spare: Sequence[RegistrySettings] = (),
    default: RegistrySettings = OLLAMA,
    binds: Sequence[Bind] = (),
) -> tuple[RegistrySettings, ...]:
    return gather(default, named, spare, lambda each, field: (each.name, field), binds)


class UpstreamsTests(SynchronousTestCase):
    def test_hugging_face_and_modelscope_have_their_usual_names(self) -> None:
        default, hf, ms = registries(UPSTREAMS)
        self.assertEqual(
            (default.name, default.host, default.prefix), ("default", "registry.ollama.ai", None)
        )
        self.assertEqual(
            (hf.name, hf.url.url, hf.host, hf.prefix),
            ("hf", "https://huggingface.co/", "hf.co", "hf--"),
        )
        self.assertEqual(hf.hosts, ("hf.co", "huggingface.co"))
        self.assertEqual((ms.host, ms.prefix), ("modelscope.cn", "ms--"))

    def test_a_registry_has_the_name_that_ollama_would_store_it_by(self) -> None:
        for text, host in (
            ("hf=https://hf.co", "hf.co"),
            ("hug=https://HuggingFace.co/", "hf.co"),
            ("hf=https://mirror.example/hf/", "hf.co"),
            ("scope=https://www.modelscope.cn/", "modelscope.cn"),
            ("lab=http://10.0.0.5:5000/", "10.0.0.5:5000"),
            ("lab=https://Registry.example/x", "registry.example"),
            ("lab=http://[::1]:5000/", "[::1]:5000"),
        ):
            (_, found) = registries(text)
            self.assertEqual(found.host, host)

    def test_none_is_the_default_registry_alone(self) -> None:
        self.assertEqual(registries("none"), (OLLAMA,))
        self.assertEqual(registries("None"), (OLLAMA,))

    def test_names_do_not_tell_capitals_apart(self) -> None:
        self.assertEqual(registries("Lab=http://h/")[1].prefix, "lab--")

    def test_a_registry_on_the_caches_machine_does_not_take_its_name(self) -> None:
        """Catches a Host header of the cache itself that leads to another registry."""
        lab = registries("lab=http://cache.lan/")[1]
        self.assertEqual(lab.hosts, ("cache.lan:80",))
        self.assertNotIn("cache.lan", lab.hosts)

    def test_a_named_registry_that_is_the_default_gives_it_its_prefix(self) -> None:
        for url in ("https://hf.co/", "https://huggingface.co/"):
            default = RegistrySettings.default(RegistryUrl.parse(url))
            for found in (
                gathered(upstreams(UPSTREAMS), (), default),
                gathered((), upstreams(UPSTREAMS), default),
            ):
                self.assertEqual([each.name for each in found], ["default", "ms"])
                self.assertEqual((found[0].prefix, found[0].hosts[0]), ("hf--", "hf.co"))

    def test_what_is_said_of_the_default_stays_where_its_name_says_nothing(self) -> None:
        url = RegistryUrl.parse("http://h:5000/")
        default = evolve(RegistrySettings.default(url), rate=DailyRate(1), lifetime=2.0)
        named = evolve(RegistrySettings.named("lab", url), rate=DailyRate(3), connections=5)
        (found,) = gathered([named], (), default)
        self.assertEqual(
            (found.name, found.rate, found.lifetime, found.connections),
            ("default", DailyRate(3), 2.0, 5),
        )

    def test_registries_that_nobody_asked_for_give_way(self) -> None:
        """Else a table for Hugging Face under another name would end the start."""
        spare = upstreams(UPSTREAMS)
        for text, expected in (
            ("hug=https://huggingface.co/", ["default", "hug", "ms"]),
            ("hf=http://h/", ["default", "hf", "ms"]),
            ("ms=http://h/ hug=https://hf.co/", ["default", "ms", "hug"]),
            ("lab=http://h/", ["default", "lab", "hf", "ms"]),
        ):
            found = gathered(upstreams(text), spare)
            self.assertEqual([each.name for each in found], expected)

    def test_certificates_of_upstream_are_trusted_for_all(self) -> None:
        """A company's proxy that opens TLS does it for every registry."""
        path = os.path.abspath(Authority(self.mktemp()).path)
        found = Settings.read({}, {"HOME": "/", "UPSTREAM_CA": path}).registries
        self.assertEqual([each.ca and each.ca.path for each in found], [path] * 3)

    def test_errors_say_the_value_and_what_was_expected(self) -> None:
        name, directory = "a name of its own: ", "a directory in the store of its own: "
        for text, value, expected in (
            ("a=http://h/ a=http://i/", "a=http://i/", f"{name}a is given twice"),
            ("a=http://h/x b=http://h/y", "b=http://h/y/", f"{directory}h belongs to a"),
            (
                # One directory in a store: the models of both would mix.
                "a=https://ollama.com/",
                "a=https://ollama.com/",
                f"{directory}registry.ollama.ai belongs to default",
            ),
            (
                "hf=https://hf.co b=https://hf.co/",
                "b=https://hf.co/",
                f"{directory}hf.co belongs to hf",
            ),
            (
                "a=https://registry.ollama.ai/x",
                "a=https://registry.ollama.ai/x/",
                f"{directory}registry.ollama.ai belongs to default",
            ),
            ("a=http://h/ none", "none", "none alone, or registries without it"),
            ("none none", "none", "none alone, or registries without it"),
        ):
            error = self.assertRaises(SettingError, registries, text)
            self.assertEqual(str(error), f"UPSTREAMS {value!r}: expected {expected}")

    def test_prefixes_hosts_and_ports_belong_to_one_registry(self) -> None:
        lab, shop = upstreams("lab=http://h/ shop=http://i/")
        first = evolve(lab, bind=(Bind.parse(":9201"),))
        for change, what in (
            ({"prefix": "lab--"}, "a prefix of its own: lab-- belongs to lab"),
            ({"hosts": ("j", "h:80")}, "hosts of its own: h:80 belongs to lab"),
            ({"bind": (Bind.parse(":9201"),)}, "a port of its own: :9201 belongs to lab"),
            (
                {"bind": (Bind.parse(":9200"),)},
                "a port of its own: :9200 is where this cache listens",
            ),
        ):
            (field,) = change
            error = self.assertRaises(
                SettingError,
                gathered,
                [first, evolve(shop, **change)],
                (),
                OLLAMA,
                [Bind.parse(":9200")],
            )
            self.assertTrue(str(error).startswith(f"shop {field!r}: expected "), error)
            self.assertTrue(str(error).endswith(what), error)

    def test_ports_that_the_system_chooses_are_no_duplicates(self) -> None:
        lab, shop = upstreams("lab=http://h/ shop=http://i/")
        zero = (Bind.parse("127.0.0.1:0"),)
        found = gathered([evolve(lab, bind=zero), evolve(shop, bind=zero)], (), OLLAMA, zero)
        self.assertEqual(len(found), 3)

    def test_there_is_a_bound_on_registries(self) -> None:
        text = " ".join(f"r{number}=http://h{number}/" for number in range(MAX_REGISTRIES - 1))
        self.assertEqual(len(registries(text)), MAX_REGISTRIES)
        self.assertRaises(SettingError, registries, f"{text} last=http://last/")

    @given(st.text())
    @example("hf=https://u:p@h/")
    def test_any_text_is_a_registry_or_an_invalid_setting(self, text: str) -> None:
        try:
            found = parse_upstream(text)
        except InvalidSetting as error:
            self.assertTrue(str(error).isprintable())
            return
        if found is not None:
            self.assertEqual(parse_upstream(f"{found.name}={found.url}"), found)


class TableTests(SynchronousTestCase):
    """Tables of a configuration file."""

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())

    def read(self, text: str, **environment: str) -> dict[str, RegistrySettings]:
        """Return the registries that are there with this file, by name."""
        Path(self.path).write_text(text)
        settings = Settings.read({"config": self.path}, {"HOME": "/", **environment})
        return {each.name: each for each in settings.registries}

    def test_a_table_names_a_registry(self) -> None:
        found = self.read(
            "[registries.lab]\n"
            'url = "https://lab.example:5000/"\n'
            'host = "lab.example"\n'
            'prefix = "l--"\n'
            'hosts = ["lab.cache.lan", "lab:80"]\n'
            'bind = [":9202", "[::1]:9203"]\n'
            'address = "192.0.2.1"\n'
            'rate = "1MB/s"\n'
            "connections = 4\n"
            'lifetime = "1h"\n'
            'allow = ["team/*", "a/b"]\n'
            'deny = "*/x"\n'
            'challenge = "oci"\n'
        )
        self.assertEqual(list(found), ["default", "lab", "hf", "ms"])
        self.assertEqual(
            found["lab"],
            RegistrySettings(
                name="lab",
                url=RegistryUrl("https", "lab.example", 5000, "/"),
                host="lab.example",
                prefix="l--",
                hosts=("lab.cache.lan", "lab:80"),
                bind=(Bind.parse(":9202"), Bind.parse("[::1]:9203")),
                address=Address("192.0.2.1"),
                rate=DailyRate(1_000_000),
                connections=4,
                lifetime=3600.0,
                allow=Patterns(("team/*", "a/b")),
                deny=Patterns(("*/x",)),
                challenge="oci",
            ),
        )

    def test_a_table_says_more_of_a_registry_that_is_named_elsewhere(self) -> None:
        text = '[registries.hf]\nrate = "1MB/s"\n'
        for found in (
            self.read(text),
            self.read(text, UPSTREAMS="lab=http://h/ hf=https://hf.co/"),
            self.read(f'upstreams = "hf=https://hf.co"\n{text}'),
        ):
            self.assertEqual((found["hf"].host, found["hf"].rate), ("hf.co", DailyRate(1_000_000)))
        (found_,) = (
            each
            for each in self.read(text, UPSTREAM_REGISTRY="https://hf.co").values()
            if each.rate
        )
        self.assertEqual((found_.name, found_.prefix), ("default", "hf--"))

    def test_a_variable_wins_over_a_tables_url(self) -> None:
        text = '[registries.lab]\nurl = "http://file/"\nrate = "1MB/s"\n'
        found = self.read(text, UPSTREAMS="lab=http://variable/")
        self.assertEqual(
            (found["lab"].url.hostname, found["lab"].rate), ("variable", DailyRate(1_000_000))
        )
        self.assertEqual(list(found), ["default", "lab"])

    def test_none_leaves_the_tables(self) -> None:
        text = '[registries.lab]\nurl = "http://h/"\n'
        self.assertEqual(list(self.read(text, UPSTREAMS="none")), ["default", "lab"])
        self.assertEqual(list(self.read(f'upstreams = "none"\n{text}')), ["default", "lab"])

    def test_each_kind_of_error_is_one_line(self) -> None:
        at, where = "[registries.lab]\n", "registries.lab"
        url = f"{at}url = 'http://h/'\n"
        for text, expected in (
            (f"{url}ratee = 1", f"{where}.ratee '1': expected a key of a registry: did you mean r"),
            (f"{url}rate = 1", f"{where}.rate '1': expected bytes or bits a second"),
            (f"{at}url = 'h'", f"{where}.url 'h': expected an http or https URL"),
            (f"{at}rate = '1MB/s'", f"{where}: expected its url too, or lab in upstreams"),
            (at, f"{where}: expected its url too"),
            (f"{url}prefix = 'lab'", f"{where}.prefix 'lab': expected a prefix such as hf--"),
            (f"{url}hosts = ['a b']", f"{where}.hosts 'a b': expected a host name or an address"),
            (f"{url}bind = ':9200'", f"{where}.bind ':9200': expected a port of its own: :9200 is"),
            (f"{url}ca = '/no'", f"{where}.ca '/no': expected a file of certificates: No such"),
            (f"{url}key = '/no'", f"{where}.key '/no': expected a private key's file: No such"),
            (f"{url}token_file = '/no'", f"{where}.token_file '/no': expected a token's file: No"),
            (f"{url}connections = 1001", f"{where}.connections '1001': expected at most 1000"),
            (f"{url}connections = '8/16'", f"{where}.connections '8/16': expected a whole"),
            (f"{url}challenge = 'x'", f"{where}.challenge 'x': expected auto, ollama or oci"),
            (f"{url}[registries.lab.x]", f"{where}.x 'a table': expected a key of a registry"),
            (f"upstreams = 'lab=http://i/'\n{url}", f"{where}.url 'http://h/': expected the URL"),
            (f"{url}[registries.LAB]", "registries.LAB 'LAB': expected each registry once"),
            ("[registries.'a b']", "registries.'a b' 'a b': expected a name: 1 to 32 letters"),
            ("[registries.default]", "registries.default 'default': expected another name"),
            ("registries = 'hf'", "registries 'hf': expected tables such as [registries.lab]"),
            ("[registries]\nhf = 'http://h/'", "registries.hf 'http://h/': expected a table"),
            ("[[registries]]", "registries '[a table]': expected tables"),
        ):  # fmt: skip
            error = self.assertRaises(SettingError, self.read, text)
            self.assertEqual(len(str(error).splitlines()), 1, error)
            self.assertTrue(
                str(error).startswith(f"{self.path}: {expected}"), f"{error}\n{expected}"
            )

    def test_a_tokens_file_is_named_and_its_token_is_not(self) -> None:
        token = os.path.abspath(self.mktemp())
        Path(token).write_text("hf_secret\n")
        text = f"[registries.hf]\ntoken_file = '{token}'\n"
        self.assertEqual(self.read(text)["hf"].token, BearerToken(token, "hf_secret"))
        shown = "\n".join(in_force({"config": self.path}, {"HOME": "/"}))
        self.assertIn(token, shown)
        self.assertNotIn("hf_secret", shown)

    def test_what_is_in_force_is_a_file_of_the_same_registries(self) -> None:
        for text, environment in (
            ("[registries.hf]\nrate = '1MB/s'\nbind = [':1', ':2']\nallow = ['a/b', 'c/d']", {}),
            ("[registries.hug]\nurl = 'https://hf.co/'\nprefix = 'h--'", {}),
            ("[registries.lab]\nurl = 'http://h/'", {"UPSTREAMS": "none"}),
            (
                "[registries.lab]\nurl = 'http://h/'",
                {"UPSTREAMS": "lab=http://i/ hf=https://hf.co"},
            ),
            ("upstreams = 'none'", {}),
            ("", {"UPSTREAM_REGISTRY": "https://hf.co/"}),
        ):
            meant = self.read(text, **environment)
            shown = "\n".join(in_force({"config": self.path}, {"HOME": "/", **environment}))
            self.assertEqual(self.read(shown), meant)


class PrefixTests(SynchronousTestCase):
    def test_other_names_cannot_be_a_prefix(self) -> None:
        for text in (
            "",
            "-a",
            "a-",
            "a--b",
            "a.b",
            "a b",
            "a/b",
            "\u00e9",
            "default",
            "Default",
            "a" * 33,
        ):
            self.assertRaises(InvalidSetting, parse_name, text)
            self.assertRaises(InvalidSetting, parse_upstream, f"{text}=http://h/")
        for text in ("", "--", "hf", "hf-", "hf---", "a--b--", "h.f--", "-a--"):
            self.assertRaises(InvalidSetting, parse_prefix, text)

    @given(names)
    def test_a_name_makes_a_prefix_that_a_namespace_may_begin_with(self, name: str) -> None:
        assume(name != "default")
        self.assertEqual(parse_name(name.upper()), name)
        self.assertEqual(parse_prefix(f"{name.upper()}--"), f"{name}--")
        self.assertRegex(f"{name}--her", r"^[A-Za-z0-9_-]{1,80}$")

    @given(names, names, st.text(ascii_lowercase + "-", max_size=9))
    def test_a_namespace_begins_with_one_registrys_prefix_at_most(
        self, one: str, other: str, rest: str
    ) -> None:
        """Catches names of which one's prefix is the beginning of the other's."""
        if one != other:
            namespace = f"{one}--{rest}"
            self.assertFalse(namespace.startswith(f"{other}--"))


class HostTests(SynchronousTestCase):
    def test_a_host_with_its_port_comes_before_the_host(self) -> None:
        self.assertEqual(
            host_candidates("HF.cache.lan:9200"), ("hf.cache.lan:9200", "hf.cache.lan")
        )
        self.assertEqual(host_candidates("[::1]:9200"), ("[::1]:9200", "[::1]"))

    def test_a_host_without_a_port_is_that_of_either_scheme(self) -> None:
        for header in ("hf.co", "hf.co.", "HF.co:", "hf.co.:"):
            self.assertEqual(host_candidates(header), ("hf.co", "hf.co:443", "hf.co:80"), header)

    @given(st.text() | st.text("a.:[]0", max_size=9))
    def test_any_header_gives_hosts_that_a_setting_may_have(self, header: str) -> None:
        for host in host_candidates(header):
            self.assertEqual(parse_host(host), host)


class ValueTests(SynchronousTestCase):
    def test_one_of_some_words_is_taken_in_any_case(self) -> None:
        parse = one_of("auto", "ollama", "oci")
        self.assertEqual([parse(text) for text in ("Auto", "oci")], ["auto", "oci"])
        error = self.assertRaises(InvalidSetting, parse, "basic")
        self.assertEqual(str(error), "expected auto, ollama or oci")

    def test_a_token_is_read_and_never_shown(self) -> None:
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(b"  hf_secret\n")
        token = BearerToken.parse(path)
        self.assertEqual((token.path, token.value), (path, "hf_secret"))
        self.assertNotIn("secret", repr(token))

    def test_other_files_are_no_tokens(self) -> None:
        path = self.mktemp()
        for content in (b"", b"\n", b"two words", b"a\nb", b"\xff", b"a" * 20_000):
            with open(path, "wb") as file:
                file.write(content)
            error = self.assertRaises(ValueError, BearerToken.parse, path)
            self.assertTrue(str(error).startswith("expected a file"), error)
        self.assertRaises(InvalidSetting, BearerToken.parse, "/nowhere")
