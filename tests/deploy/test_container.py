"""``deploy/container`` agrees with the project; ``try-image`` there builds and runs the image."""

from __future__ import annotations

import re
from configparser import ConfigParser

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import CHECKOUT
from yukari.config.settings import SETTINGS, Settings

CONTAINER = CHECKOUT / "deploy" / "container"
LOCK = CONTAINER / "requirements.txt"


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


class ContainerTests(SynchronousTestCase):
    def test_the_lock_has_all_that_the_project_requires(self) -> None:
        setup = ConfigParser()
        setup.read(CHECKOUT / "setup.cfg")
        locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
        for line in setup["options"]["install_requires"].splitlines():
            wanted = re.fullmatch(r"([\w.-]+)(?:\[\w+\])? *>= *([\d.]+)(?: *;.*)?", line)
            if wanted is None:
                self.assertTrue(not line or line.startswith("#"), line)
                continue
            name = re.sub(r"[._]", "-", wanted[1])
            self.assertIn(name, locked, f"renew {LOCK}: its first lines say how")
            self.assertGreaterEqual(numbers(locked[name]), numbers(wanted[2]), name)

    def test_everything_in_the_lock_has_a_digest(self) -> None:
        text = LOCK.read_text()
        for entry in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]:
            self.assertIn("--hash=sha256:", entry)

    def test_compose_files_set_only_known_settings(self) -> None:
        names = {row.environment for row in SETTINGS}
        for name in "compose.yaml", "compose.s3.yaml":
            text = (CONTAINER / name).read_text().partition("  s3:\n")[0]
            given = re.findall(r"^ {6}([A-Z][A-Z_0-9]+): (.*)$", text, re.MULTILINE)
            self.assertGreater(len(given), 1)
            for variable, value in given:
                if not variable.startswith("AWS_"):
                    self.assertIn(variable, names)
                    plain = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value).strip('"')
                    Settings.read({}, {"HOME": "/", variable: plain})

    def test_the_image_copies_every_file_that_setup_needs(self) -> None:
        dockerfile = (CONTAINER / "Dockerfile").read_text()
        copied = set()
        for line in re.findall(r"^COPY (?!--)(.*)$", dockerfile, re.MULTILINE):
            copied |= set(line.split()[:-1])
        allowed = (CONTAINER / "Dockerfile.dockerignore").read_text()
        self.assertEqual(copied, set(re.findall(r"^!(.*)$", allowed, re.MULTILINE)))
        for path in copied:
            self.assertTrue((CHECKOUT / path).exists(), path)
