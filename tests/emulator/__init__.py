"""
An emulated upstream: Ollama's registry, the store on another host that its
blobs redirect to, and a third host that realms and redirects can name.

In a test, on the test's own reactor and on real loopback sockets::

    emulator = await Emulator.start(reactor, ["library/m:latest=300KB,1KB"])
    emulator.faults.add(Fault("store", "cut", after=1000, times=1))
    ...
    await emulator.stop()

As a process of its own::

    python -m tests.emulator --models library/m:latest=2GB --line 600MB

which prints one line of JSON when it is ready. There ``GET /_counters`` tells
what was asked and sent, and ``POST /_faults`` takes what `Emulator.control` does.

How it behaves is in `Settings` (settings.py), what goes wrong with single
requests in `Fault` (faults.py). It challenges, checks signatures and gives out
tokens as registry.ollama.ai does where ``challenge`` says so (challenge.py). With `HUB`
it behaves as hf.co.

It speaks HTTP/1.1 by itself, so that an answer can be wrong at any byte.
"""

from tests.emulator.challenge import public_key_of, signed_text, verify
from tests.emulator.content import generated, parse_size
from tests.emulator.emulator import Emulator, kept_port
from tests.emulator.faults import Fault
from tests.emulator.models import LIST, MANIFEST, ManifestList, Model, ModelSpec
from tests.emulator.settings import HUB, Settings

__all__ = [
    "HUB",
    "LIST",
    "MANIFEST",
    "Emulator",
    "Fault",
    "ManifestList",
    "Model",
    "ModelSpec",
    "Settings",
    "generated",
    "kept_port",
    "parse_size",
    "public_key_of",
    "signed_text",
    "verify",
]
