"""Which registry a name means: a mistake here gives a client another registry's model."""

from __future__ import annotations

from string import ascii_lowercase

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.strategies import name_parts
from yukari.config.registries import RegistrySettings, parse_host
from yukari.config.registry_names import RegistryNames
from yukari.config.urls import RegistryUrl
from yukari.names import AS_LLAMA_CPP, DEFAULT, InvalidName, Repository


def registry(name: str, url: str, **more: object) -> RegistrySettings:
    return evolve(RegistrySettings.named(name, RegistryUrl.parse(url)), **more)


OLLAMA = RegistrySettings.default(RegistryUrl.parse("https://registry.ollama.ai/"))
HF = registry("hf", "https://huggingface.co/")
LAB = registry("lab", "http://10.0.0.5:5000/", hosts=("lab.cache.lan", "cache.lan:9300"))
NAMES = RegistryNames.of([OLLAMA, HF, LAB])


def hosts() -> st.SearchStrategy[str]:
    """Hosts as a Host header has them, with a port or without."""
    label = st.text(ascii_lowercase, min_size=1, max_size=5)
    name = st.lists(label, min_size=1, max_size=3).map(".".join)
    port = st.one_of(st.just(""), st.integers(1, 65535).map(lambda each: f":{each}"))
    return st.tuples(name, port).map("".join)


class NamingTests(SynchronousTestCase):
    def test_the_host_header_says_which_registry(self) -> None:
        for header, expected in {
            "hf.co": "hf.co",
            "HF.co:443": "hf.co",
            "huggingface.co": "hf.co",
            "lab.cache.lan:9200": "10.0.0.5:5000",
            "cache.lan:9300": "10.0.0.5:5000",
            "cache.lan:9200": None,
            "cache.lan": None,
            "10.0.0.5:5000": None,
            "registry.ollama.ai": None,
            "nothf.co": None,
            "hf.co.evil.example": None,
            "": None,
            "hf.co/": None,
        }.items():
            self.assertEqual(NAMES.by_host(header), expected, header)

    def test_a_prefix_counts_only_for_who_names_no_other_registry(self) -> None:
        for asked_by, namespace, expected in (
            (DEFAULT, "library", "library/m"),
            (DEFAULT, "hf--bartowski", "hf.co/bartowski/m"),
            (DEFAULT, "HF--Bartowski", "hf.co/Bartowski/m"),
            (DEFAULT, "lab--a--b", "10.0.0.5:5000/a--b/m"),
            (DEFAULT, "hf-bartowski", "hf-bartowski/m"),
            (DEFAULT, "xhf--bartowski", "xhf--bartowski/m"),
            (DEFAULT, "hf--", "hf--/m"),
            (DEFAULT, "ms--her", "ms--her/m"),
            ("hf.co", "hf--bartowski", "hf.co/hf--bartowski/m"),
            ("10.0.0.5:5000", "hf--her", "10.0.0.5:5000/hf--her/m"),
        ):
            found = NAMES.repository(namespace, "m", asked_by)
            self.assertEqual(str(found), expected)

    def test_people_name_registries_as_ollama_does(self) -> None:
        for host, expected in {
            "registry.ollama.ai": DEFAULT,
            "ollama.com": DEFAULT,
            "hf.co": "hf.co",
            "HuggingFace.co": "hf.co",
            "10.0.0.5:5000": "10.0.0.5:5000",
            "quay.io": None,
        }.items():
            self.assertEqual(NAMES.find(host), expected, host)

    def test_both_hosts_of_ollamas_registry_name_it_where_another_is_the_default_one(self) -> None:
        for url, host in (
            ("https://registry.ollama.ai/", "registry.ollama.ai"),
            ("https://ollama.com/", "ollama.com"),
        ):
            default = RegistrySettings.default(RegistryUrl.parse("http://10.0.0.5:5000/"))
            ollama = RegistrySettings.named("ol", RegistryUrl.parse(url))
            names = RegistryNames.of((default, ollama))
            for said in ("registry.ollama.ai", "ollama.com", "Ollama.com"):
                self.assertEqual(names.find(said), host, said)

    def test_what_is_behind_a_prefix_may_not_be_bad(self) -> None:
        self.assertRaises(InvalidName, NAMES.repository, "hf---x", "m")
        self.assertRaises(InvalidName, NAMES.repository, "hf--.hidden", "m")

    def test_llama_cpp_means_a_model_of_its_own_where_bytes_differ_by_agent(self) -> None:
        theirs, ours = Repository("hf.co", "a", "m"), Repository(DEFAULT, "a", "m")
        for agent in ("ollama/0.34.4 (amd64 linux)", "curl/8", ""):
            self.assertEqual(NAMES.for_agent(theirs, agent), theirs)
        found = NAMES.for_agent(theirs, "llama-cpp")
        self.assertEqual(found, Repository(f"hf.co{AS_LLAMA_CPP}", "a", "m"))
        self.assertEqual((found.host, found.path), ("hf.co", "a/m"))
        self.assertEqual(NAMES.for_agent(ours, "llama-cpp"), ours)
        self.assertIn(found.registry, NAMES.others)

    def test_the_path_given_to_clients_leads_back_to_the_model(self) -> None:
        for name in map(Repository.parse, ("library/m", "hf.co/a/m", "10.0.0.5:5000/a/m")):
            namespace, _, model = NAMES.path_for_clients(name).partition("/")
            self.assertEqual(NAMES.repository(namespace, model), name)


@st.composite
def configurations(draw: st.DrawFn) -> list[RegistrySettings]:
    """Registries that share neither a name, nor a host, nor a prefix."""
    urls = draw(st.lists(hosts(), min_size=2, max_size=5, unique_by=lambda each: parse_host(each)))
    found = [RegistrySettings.default(RegistryUrl.parse(f"http://{urls[0]}/"))]
    taken = {found[0].host}
    for number, url in enumerate(urls[1:]):
        each = registry(f"r{number}", f"http://{url}/", hosts=(parse_host(url),))
        if each.host not in taken:
            taken.add(each.host)
            found.append(each)
    return found


class MixingTests(SynchronousTestCase):
    """Whatever is configured, two registries' models never have one name here."""

    @given(configurations(), name_parts(), name_parts())
    def test_each_way_of_naming_leads_to_the_same_repository(
        self, registries: list[RegistrySettings], namespace: str, model: str
    ) -> None:
        names = RegistryNames.of(registries)
        for each in registries[1:]:
            expected = Repository(each.host, namespace, model)
            for header in each.hosts:
                found = names.by_host(header)
                assert found is not None
                self.assertEqual(names.repository(namespace, model, found), expected)
            self.assertEqual(names.repository(f"{each.prefix}{namespace}", model), expected)
            self.assertEqual(names.find(each.host), each.host)

    @given(configurations(), st.lists(name_parts(), min_size=1, max_size=3), name_parts())
    def test_no_two_registries_share_a_name_in_the_store(
        self, registries: list[RegistrySettings], parts: list[str], model: str
    ) -> None:
        """By the text that sidecars, the catalog and marks have."""
        names = RegistryNames.of(registries)
        asked = {f"{prefix}{part}" for part in parts for prefix in ("", *names.prefixes)}
        found = {names.repository(each, model) for each in asked}
        self.assertEqual(len({str(each) for each in found}), len(found))
        for each in found:
            self.assertEqual(Repository.parse(str(each)), each)

    @given(configurations(), hosts())
    def test_a_host_of_nobody_is_the_default_registrys(
        self, registries: list[RegistrySettings], host: str
    ) -> None:
        names = RegistryNames.of(registries)
        owners = {each.host for each in registries[1:] for own in each.hosts if own in host}
        found = names.by_host(host)
        self.assertTrue(found is None or found in owners)
