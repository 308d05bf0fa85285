"""README.rst, the pages of docs/ and CHANGELOG.rst say what is so."""

from __future__ import annotations

import ast
import configparser
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT
from yukari import __version__
from yukari.cli.verbs import VERBS, yukari
from yukari.config.reference import BEGIN, COMMON, END, TABLES, full_table, short_table
from yukari.config.settings import SETTINGS

IN_CHECKOUT = re.compile(r"``((?:deploy|tests|yukari|bench|docs|twisted|\.ci)/[\w./-]+)``")
IN_BUCKET = {"yukari/sweep.json", "yukari/llama-cpp"}
"""What stores have under names that begin as those of modules do."""
LONGEST_README = 200
"""Lines. A reader should get to the commands and the way to pull on the first screens."""
OTHERS_FLAGS = {
    *("help", "version"),
    *("insecure", "logfile", "pidfile", "runner"),  # Ollama's and twistd's
    *("only", "quick", "full", "json", "plot", "congestion"),  # of python -m bench
    *("no-index", "find-links"),  # pip's
    "fresh",  # update-ca-certificates
}
OTHER_CAPITALS = {
    *("DEBUG", "INFO", "WARN", "ERROR", "HOST", "OK", "OLLAMA_MODELS"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S", "AWS_REGION", "AWS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
    *(
        "GET",
        "HEAD",
        "DELETE",
        "OLLAMA_HOST",
        "YUKARI_CACHE",
        "YUKARI_TEST_OLLAMA",
        "BENCH_CHECKOUT",
        "OLLAMA_VERSION",
    ),
    *("BASE", "CONNECT", "NaN", "PATH", "TCP_INFO", "TCP_WINDOW_CLAMP"),
}


def read(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of every page for operators, by its path."""
    found = [CHECKOUT / "README.rst", *sorted((CHECKOUT / "docs").glob("*.rst"))]
    return {str(path.relative_to(CHECKOUT)): path.read_text(encoding="utf-8") for path in found}


class ReadmeTests(SynchronousTestCase):
    """The pages that an operator reads."""

    def test_readme_is_short(self) -> None:
        self.assertLessEqual(len(read("README.rst").splitlines()), LONGEST_README)

    def test_tables_are_made_from_the_settings(self) -> None:
        """Catches a setting that changed without a run of python -m yukari.config.reference."""
        for path, table in TABLES.items():
            self.assertIn(f"{BEGIN}\n\n{table()}{END}\n", read(path), path)

    def test_full_table_has_a_sentence_about_every_setting(self) -> None:
        table = full_table()
        for row in SETTINGS:
            self.assertRegex(row.help + row.details, r"^[A-Z].*[.]$", row.name)
            self.assertIn(f"``--{row.flag}``", table)

    def test_short_table_has_the_ten_common_settings(self) -> None:
        rows = re.findall(r"^   \* - ``([A-Z_]+)``$", short_table(), re.MULTILINE)
        self.assertEqual(rows, [name.upper() for name in COMMON])
        self.assertEqual(len(rows), 10)

    def test_every_flag_and_variable_exists(self) -> None:
        known = {row.environment for row in SETTINGS} | {"YUKARI_CACHE"}
        for path, text in pages().items():
            flags = set(re.findall(r"(?<![-\w])--([a-z][a-z-]*)", own_commands(text)))
            self.assertEqual(flags - verbs_flags() - OTHERS_FLAGS, set(), path)
            variables = set(re.findall(r"``([A-Z][A-Z_]+)``", text))
            self.assertEqual(variables - known - OTHER_CAPITALS, set(), path)

    def test_floors_are_those_that_the_linter_holds(self) -> None:
        """Catches a module that is on no floor of the page."""
        page = read("docs/developing.rst")
        rows = re.findall(r"^   \* - ((?:``[a-z0-9]+``(?:,\s+| and )?)+)$", page, re.MULTILINE)
        documented = [re.findall(r"``([a-z0-9]+)``", row) for row in rows]
        linted = configparser.ConfigParser()
        linted.read(CHECKOUT / "setup.cfg", encoding="utf-8")
        layers = linted["importlinter:contract:floors"]["layers"].split("\n")
        floors = [re.findall(r"[a-z0-9]+", layer) for layer in filter(None, layers)]
        self.assertEqual(sum(documented, []), sum(floors, []))

    def test_every_link_leads_to_a_file(self) -> None:
        """Catches a page that was renamed or moved away."""
        for path, text in pages().items():
            for target in re.findall(r"`[^`]+ <([^>:]+)>`_", text):
                # The website has no files: its pages name one another by :doc:.
                self.assertFalse(path.startswith("docs/"), f"{path}: {target}")
                self.assertTrue(((CHECKOUT / path).parent / target).exists(), f"{path}: {target}")
            for target in set(IN_CHECKOUT.findall(text)) - IN_BUCKET:
                self.assertTrue((CHECKOUT / target).exists(), f"{path}: {target}")

    def test_it_has_both_commands_on_one_line_each(self) -> None:
        commands = re.findall(r"^    (python3 -m venv .*)$", read("README.rst"), re.MULTILINE)
        self.assertEqual(
            [command.rpartition(" && ")[2] for command in commands],
            [".venv/bin/yukari", ".venv/bin/trial tests"],
        )

    def test_pages_name_no_registry_but_those_that_are_meant(self) -> None:
        allowed = {"registry.ollama.ai", "ollama.com", "hf.co", "huggingface.co", "modelscope.cn"}
        for path, text in pages().items():
            hosts = set(re.findall(r"https?://([\w.-]+\.[a-z]{2,})", text))
            hosts = {host for host in hosts if not host.endswith(".example")}
            self.assertLessEqual(hosts, allowed, path)

    def test_changelog_begins_with_this_version(self) -> None:
        newest = re.search(r"^([0-9]+\.[0-9.]+)\b.*\n=+$", read("CHANGELOG.rst"), re.MULTILINE)
        assert newest is not None
        self.assertEqual(newest[1], __version__)


def verbs_flags() -> set[str]:
    """Return the flags of the daemon and of every verb of ``yukari``."""
    found = {row.flag for row in SETTINGS}
    for name in VERBS:
        verb = yukari.get_command(None, name)
        assert verb is not None
        for option in verb.params:
            found |= {each[2:] for each in option.opts if each.startswith("--")}
    return found


def own_commands(text: str) -> str:
    """The text without literal blocks of other programs' commands."""
    others = re.compile(r"^ {4}(?:openssl|sudo|groupadd|useradd|docker|kubectl|helm|certutil)\b.*$")
    lines, continued = [], False
    for line in text.splitlines():
        skipped = continued or others.match(line) is not None
        continued = skipped and line.endswith("\\")
        if not skipped:
            lines.append(line)
    return "\n".join(lines)


class TroubleshootingTests(SynchronousTestCase):
    """docs/troubleshooting.rst is read by the text of an error."""

    def test_every_text_is_one_that_is_shown(self) -> None:
        """Catches a message that was reworded without the page."""
        shown = texts()
        page = read("docs/troubleshooting.rst").partition("\nA client is told\n====")[2]
        entries = re.findall(r"^``(.+)``$", page, re.MULTILINE)
        self.assertGreater(len(entries), 20)
        for entry in entries:
            # A colon may join two texts: what failed, and the reason.
            for part in filter(None, re.split(r"[… ]*…[… ]*|: ", entry)):
                self.assertTrue(any(part in text for text in shown), f"{entry}: {part!r}")


def texts() -> set[str]:
    """Every literal text in the code: of a formatted one, what stands between its fields."""
    found: set[str] = set()
    for path in (CHECKOUT / "yukari").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found
