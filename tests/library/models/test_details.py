"""What models say of themselves, in their configs, can be stored and shown, whatever it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.memory import MemoryStore
from tests.storage.strategies import result_of
from yukari.library.models.details import MAX_TEXT, MAX_TEXTS, Details
from yukari.manifest import Manifest
from yukari.names import Digest

HALF = "\ud800"
"""What JSON can name and UTF-8 has no bytes for."""
TEXTS = st.text(st.characters(), max_size=300)
VALUES = TEXTS | st.lists(TEXTS, max_size=20) | st.none() | st.integers() | st.floats()
KEYS = ("model_format", "model_family", "model_families", "model_type", "file_type")
MORE = ("capabilities", "renderer", "requires")


def texts_in(found: Any) -> list[str]:
    """Every text in what JSON can tell, keys too."""
    if isinstance(found, dict):
        return [*found, *(text for value in found.values() for text in texts_in(value))]
    if isinstance(found, list):
        return [text for value in found for text in texts_in(value)]
    return [found] if isinstance(found, str) else []


class DetailsTests(SynchronousTestCase):
    @given(st.dictionaries(st.sampled_from(KEYS + MORE), VALUES), st.dictionaries(TEXTS, VALUES))
    @example(dict.fromkeys((*KEYS, *MORE), HALF), {HALF: HALF})
    @example({"model_families": [HALF] * 100, "capabilities": ["x" * 9999]}, {})
    def test_every_text_is_short_and_has_bytes(
        self, config: dict[str, Any], parameters: dict[str, Any]
    ) -> None:
        """One model's half of a character was the end of the catalog's entries, and of the page."""
        store = MemoryStore()
        layers = []
        for kind, content in (("config", config), ("params", parameters)):
            body = json.dumps(content).encode()
            digest = Digest.of(body)
            store._blobs[digest] = bytearray(body)
            media_type = f"application/vnd.ollama.image.{kind}"
            layers.append({"digest": str(digest), "size": len(body), "mediaType": media_type})
        named = {"schemaVersion": 2, "config": layers[0], "layers": layers[1:]}
        manifest = Manifest.parse(json.dumps(named).encode())
        (summary,) = result_of(Details(store).summaries([manifest]))
        shown = result_of(Details(store).show(manifest))
        # Ollama up to 0.9 crashes at information without an architecture, such as {}.
        self.assertIsNone(shown["model_info"])
        for text in (*texts_in(summary), *texts_in(shown)):
            text.encode()
        for found in (summary, shown["details"], {"": shown["capabilities"]}):
            self.assertLessEqual(max(map(len, texts_in(found)), default=0), MAX_TEXT)
            for value in found.values():
                self.assertLessEqual(len(value) if isinstance(value, list) else 0, MAX_TEXTS)
