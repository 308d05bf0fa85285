"""
Stock Ollama as it is released, for tests: ``ollama serve``, and commands of its.

``YUKARI_TEST_OLLAMA`` is the program's path, else the one on PATH is taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256

from attrs import define
from twisted.internet.task import deferLater

from tests.emulator import Model
from tests.processes import Process, ProcessCase, YukariProcess, reactor

OLLAMA = os.environ.get("YUKARI_TEST_OLLAMA") or shutil.which("ollama") or ""
MODEL = "library/m:latest"


@define(eq=False)
class Ollama(Process):
    """``ollama serve`` with an empty home."""

    home: str
    trusted: str = "/dev/null"
    """The file with the certificates that it trusts."""

    @property
    def address(self) -> str:
        """Its address, "" while it does not listen."""
        found = re.search(rb"Listening on ([0-9.:]+)", self.err)
        return found[1].decode() if found else ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": self.home,
            "OLLAMA_HOST": self.address or "127.0.0.1:0",
            "PATH": os.environ["PATH"],
            "SSL_CERT_FILE": self.trusted,
        }

    def manifest(self, host: str, model: str) -> bytes:
        """Return the manifest's file of ``NAMESPACE/MODEL:TAG`` from ``host``."""
        path = os.path.join(self.models, "manifests", host, *re.split("[/:]", model))
        with open(path, "rb") as file:
            return file.read()

    def blob(self, digest: str) -> str:
        """The path of a blob's file."""
        return os.path.join(self.models, "blobs", digest.replace(":", "-"))

    @property
    def public_key(self) -> str:
        """The base64 field of its public key's OpenSSH line."""
        with open(os.path.join(self.home, ".ollama", "id_ed25519.pub")) as file:
            return file.read().split(" ")[1].strip()

    def forget(self) -> None:
        """Throw away all it pulled."""
        shutil.rmtree(self.models)
        os.makedirs(os.path.join(self.models, "blobs"))

    @property
    def models(self) -> str:
        """Its store."""
        return os.path.join(self.home, ".ollama", "models")


class OllamaCase(ProcessCase):
    """Tests that need a stock Ollama; skipped without one."""

    if not OLLAMA:
        skip = "no stock Ollama: none on PATH, and YUKARI_TEST_OLLAMA does not name one"

    async def ollama(self, home: str = "", trusted: str = "/dev/null") -> Ollama:
        """A new one, serving."""
        made = Ollama(home or self.directory(), trusted)
        self.spawn(OLLAMA, "serve", environment=made.environment, process=made)
        await made.until(lambda: made.address)
        return made

    def run_by(self, ollama: Ollama, *arguments: str) -> Process:
        """A running command of Ollama's."""
        return self.spawn(OLLAMA, *arguments, environment=ollama.environment)

    def begin_pull(self, ollama: Ollama, host: str, model: str) -> Process:
        """Start ``ollama pull`` from ``HOST:PORT``."""
        return self.run_by(ollama, "pull", "--insecure", f"{host}/{model}")

    async def pull_by(self, ollama: Ollama, host: str, model: str = MODEL) -> None:
        """A pull that goes through."""
        pulling = self.begin_pull(ollama, host, model)
        self.assertEqual(await pulling.ended, 0, pulling.text)

    async def refused(self, ollama: Ollama, host: str, model: str = MODEL) -> str:
        """Return the error that the user sees of a pull that must fail."""
        pulling = self.begin_pull(ollama, host, model)
        self.assertEqual(await pulling.ended, 1, pulling.text)
        return pulling.text.strip().splitlines()[-1]

    def assert_pulled(self, ollama: Ollama, host: str, model: Model) -> None:
        """Ollama has upstream's very bytes."""
        self.assertEqual(ollama.manifest(host, model.name), model.manifest_bytes)
        for digest, size in model.blobs:
            self.assertEqual(os.path.getsize(ollama.blob(digest)), size)
            with open(ollama.blob(digest), "rb") as file:
                self.assertEqual(f"sha256:{sha256(file.read()).hexdigest()}", digest)

    async def idle(self, daemon: YukariProcess) -> None:
        """Return when nothing is being fetched any more."""
        while json.loads((await self.ask(f"{daemon.url}/fills"))[1])["fills"]:
            await deferLater(reactor, 0.02, lambda: None)
