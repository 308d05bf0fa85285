"""README.rst and CHANGELOG.rst say what is so."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT
from yukari import __version__
from yukari.config.settings import SETTINGS

OTHERS_FLAGS = {"help", "insecure", "logfile", "pidfile"}
"""Ollama's, twistd's, and those that every program has."""
OTHER_CAPITALS = {
    *("DEBUG", "INFO", "WARN", "ERROR", "HOST", "OK", "OLLAMA_MODELS"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S", "AWS_REGION", "AWS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
}


def read(name: str) -> str:
    with open(CHECKOUT / name, encoding="utf-8") as file:
        return file.read()


def rows(text: str) -> list[list[str]]:
    """The cells of the one list-table, without the quotes of literals, on one line each."""
    table = re.search(r"\.\. list-table::.*?\n\n((?: {3}.*\n|\n)+)", text, re.DOTALL)
    assert table is not None
    cells = [
        [" ".join(cell.split()).replace("``", "") for cell in re.split(r"^ {5}- ", row, flags=re.M)]
        for row in re.split(r"^ {3}\* - ", table[1], flags=re.M)[1:]
    ]
    return cells[1:]


class ReadmeTests(SynchronousTestCase):
    """What an operator reads first."""

    def setUp(self) -> None:
        self.text = read("README.rst")

    def test_the_table_has_every_setting_with_its_flag_and_default(self) -> None:
        self.assertEqual(
            [tuple(row[:3]) for row in rows(self.text)],
            [
                (row.environment, f"--{row.flag}", row.default_shown or row.default)
                for row in SETTINGS
            ],
        )

    def test_the_table_explains_every_setting(self) -> None:
        for row in rows(self.text):
            self.assertEqual(len(row), 4)
            self.assertTrue(row[3].endswith("."), row)

    def test_every_flag_and_variable_exists(self) -> None:
        flags = set(re.findall(r"(?<![-\w])--([a-z][a-z-]*)", self.text))
        self.assertEqual(flags - {row.flag for row in SETTINGS} - OTHERS_FLAGS, set())
        variables = set(re.findall(r"``([A-Z][A-Z_]+)``", self.text))
        known = {row.environment for row in SETTINGS}
        self.assertEqual(variables - known - OTHER_CAPITALS, set())

    def test_it_has_both_commands_on_one_line_each(self) -> None:
        commands = re.findall(r"^    (python3 -m venv .*)$", self.text, re.MULTILINE)
        self.assertEqual(
            [command.rpartition(" && ")[2] for command in commands],
            [".venv/bin/yukari", ".venv/bin/trial tests"],
        )

    def test_it_names_no_registry_but_the_two(self) -> None:
        hosts = set(re.findall(r"https?://([\w.-]+\.[a-z]{2,})", self.text))
        self.assertLessEqual(hosts, {"registry.ollama.ai", "hf.co"})

    def test_the_changelog_begins_with_this_version(self) -> None:
        newest = re.search(r"^([0-9]+\.[0-9.]+)\b.*\n=+$", read("CHANGELOG.rst"), re.MULTILINE)
        assert newest is not None
        self.assertEqual(newest[1], __version__)
