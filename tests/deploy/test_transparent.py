"""docs/transparent.rst, followed as written: stock Ollama pulls plain names by the cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap

from tests.ollama import OLLAMA
from tests.processes import CHECKOUT, ProcessCase

UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
"""All that runs in it ends with it."""
TOOLS = ("unshare", "ip", "openssl", "curl", "update-ca-certificates")


def missing() -> str | None:
    """Why the page cannot be followed here."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if not OLLAMA:
        return "no stock Ollama"
    # A pair of interfaces is more than some containers allow.
    tried = subprocess.run(
        [*UNSHARE, "ip", "link", "add", "inside", "type", "veth"], capture_output=True, check=False
    )
    return "no name spaces of one's own here" if tried.returncode else None


def blocks() -> list[str]:
    """The page's literal blocks."""
    text = (CHECKOUT / "docs" / "transparent.rst").read_text(encoding="utf-8")
    found = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", text)
    return [textwrap.dedent(each).strip() + "\n" for each in found]


class TransparentTests(ProcessCase):
    """Needs to be root."""

    skip = missing()

    def block(self, beginning: str) -> str:
        """The file of the last block that begins so."""
        found = [each for each in blocks() if each.startswith(beginning)]
        self.assertTrue(found, beginning)
        path = os.path.join(self.directory(), "block")
        with open(path, "w", encoding="utf-8") as file:
            file.write(found[-1])
        return path

    async def test_the_pages_commands_work(self) -> None:
        beginnings = (
            *(
                "mkdir -p /etc/yukari && cd",
                "cd /etc/yukari",
                "getent",
                "BIND=",
                "echo ",
                "cp root",
            ),
            *("curl ", "ollama pull llama3.2", "ollama pull cache.example"),
        )
        environment = {
            "PATH": os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")),
            "PYTHONPATH": str(CHECKOUT),
        }
        following = self.spawn(
            *(shutil.which(UNSHARE[0]) or "", *UNSHARE[1:], "bash"),
            *(str(CHECKOUT / "tests" / "transparent.sh"), self.directory(), sys.executable),
            *(os.path.abspath(OLLAMA), *map(self.block, beginnings)),
            environment=environment,
        )
        self.assertEqual(await following.ended, 0, following.text)
        said = following.out.decode().splitlines()
        self.assertEqual(
            said[:-1],
            [
                "certificate: cert.pem: OK",
                "before: 198.51.100.7",
                "asked: OK",
                *2 * ["pull: success"],
                "./cache.example/library/llama3.2/latest",
                "./registry.ollama.ai/library/llama3.2/latest",
            ],
        )
        told = next(each for each in blocks() if each.startswith("this cache is its own upstream"))
        self.assertIn(" ".join(told.split()), said[-1])
