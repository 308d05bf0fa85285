"""README.rst and CHANGELOG.rst say what is so."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT
from yukari import __version__
from yukari.config.reference import BEGIN, END, table
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


class ReadmeTests(SynchronousTestCase):
    """What an operator reads first."""

    def setUp(self) -> None:
        self.text = read("README.rst")

    def test_the_table_is_made_from_the_settings(self) -> None:
        """A setting that was added or changed; python -m yukari.config.reference README.rst."""
        self.assertIn(f"{BEGIN}\n\n{table()}{END}\n", self.text)

    def test_the_table_has_a_sentence_about_every_setting(self) -> None:
        for row in SETTINGS:
            self.assertRegex(row.help + row.details, r"^[A-Z].*[.]$", row.name)
            self.assertIn(f"``--{row.flag}``", table())

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
