"""Registries beside the default one: what UPSTREAMS may say, and what two of them may not share."""

from __future__ import annotations

import os
from string import ascii_lowercase, digits

from attrs import evolve
from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.listen import Bind
from yukari.config.registries import (
    MOST,
    UPSTREAMS,
    RegistrySettings,
    gather,
    host_candidates,
    parse_challenge,
    parse_host,
    parse_name,
    parse_prefix,
    parse_upstream,
)
from yukari.config.setting import SettingError
from yukari.config.token_file import BearerToken
from yukari.config.units import Connections
from yukari.config.urls import InvalidSetting, RegistryUrl

OLLAMA = RegistrySettings.default(RegistryUrl.parse("https://registry.ollama.ai/"))

_words = st.text(ascii_lowercase + digits + "_", min_size=1, max_size=6)
names = st.lists(_words, min_size=1, max_size=3).map("-".join)
"""Names that a registry may have."""


def upstreams(text: str) -> list[RegistrySettings | None]:
    return [parse_upstream(part) for part in text.split()]


def registries(text: str, default: RegistrySettings = OLLAMA) -> tuple[RegistrySettings, ...]:
    return gather(default, upstreams(text))


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
                gather(default, upstreams(UPSTREAMS)),
                gather(default, (), upstreams(UPSTREAMS)),
            ):
                self.assertEqual([each.name for each in found], ["default", "ms"])
                self.assertEqual((found[0].prefix, found[0].hosts[0]), ("hf--", "hf.co"))

    def test_what_is_said_of_the_default_stays_where_its_name_says_nothing(self) -> None:
        url = RegistryUrl.parse("http://h:5000/")
        default = evolve(RegistrySettings.default(url), rate=1, lifetime=2.0)
        named = evolve(RegistrySettings.named("lab", url), rate=3, connections=Connections(1, 2))
        (found,) = gather(default, [named])
        self.assertEqual(
            (found.name, found.rate, found.lifetime, found.connections),
            ("default", 3, 2.0, Connections(1, 2)),
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
            found = gather(OLLAMA, upstreams(text), [each for each in spare if each])
            self.assertEqual([each.name for each in found], expected)

    def test_errors_say_the_value_and_what_was_expected(self) -> None:
        name, directory = "a name of its own: ", "a directory in the store of its own: "
        for text, value, expected in (
            ("a=http://h/ a=http://i/", "a=http://i/", f"{name}a is given twice"),
            ("a=http://h/x b=http://h/y", "b=http://h/y/", f"{directory}h belongs to a"),
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
        lab, shop = (each for each in upstreams("lab=http://h/ shop=http://i/") if each)
        for change, what in (
            ({"prefix": "lab--"}, "a prefix of its own: lab-- belongs to lab"),
            ({"hosts": ("j", "h:80")}, "hosts of its own: h:80 belongs to lab"),
            ({"bind": (Bind.parse(":9201"),)}, "a port of its own: :9201 belongs to lab"),
            (
                {"bind": (Bind.parse(":9200"),)},
                "a port of its own: :9200 is where this cache listens",
            ),
        ):
            first = evolve(lab, bind=(Bind.parse(":9201"),))
            error = self.assertRaises(
                SettingError,
                gather,
                OLLAMA,
                [first, evolve(shop, **change)],
                binds=[Bind.parse(":9200")],
            )
            self.assertEqual(str(error), f"UPSTREAMS 'shop=http://i/': expected {what}")

    def test_ports_that_the_system_chooses_are_no_duplicates(self) -> None:
        lab, shop = (each for each in upstreams("lab=http://h/ shop=http://i/") if each)
        zero = (Bind.parse("127.0.0.1:0"),)
        found = gather(OLLAMA, [evolve(lab, bind=zero), evolve(shop, bind=zero)], binds=zero)
        self.assertEqual(len(found), 3)

    def test_there_is_a_bound_on_registries(self) -> None:
        text = " ".join(f"r{number}=http://h{number}/" for number in range(MOST - 1))
        self.assertEqual(len(registries(text)), MOST)
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
        self.assertEqual(host_candidates("hf.co."), ("hf.co", "hf.co:443", "hf.co:80"))

    @given(st.text() | st.text("a.:[]0", max_size=9))
    def test_any_header_gives_hosts_that_a_setting_may_have(self, header: str) -> None:
        for host in host_candidates(header):
            self.assertEqual(parse_host(host), host)


class ValueTests(SynchronousTestCase):
    def test_kinds_of_challenge_are_known(self) -> None:
        self.assertEqual([parse_challenge(text) for text in ("Auto", "oci")], ["auto", "oci"])
        self.assertRaises(InvalidSetting, parse_challenge, "basic")

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
