"""Models that are worth looking at."""

from __future__ import annotations

import json

from tests.emulator import Emulator, Model

STRANGER = {"X-Forwarded-For": "192.0.2.7"}
"""What makes a request from this machine one from elsewhere."""
MARKUP = "</pre><script>document.title='run'</script><img src=x onerror=alert(1)>&amp;'\""
"""What must stay text, wherever it comes from."""
_TYPE = "application/vnd.ollama.image."


def add_model(
    upstream: Emulator,
    name: str,
    weights: bytes,
    *,
    parameters: str = "",
    quantisation: str = "",
    **texts: str,
) -> Model:
    """
    Put a model upstream, with a config and layers of ``texts`` as Ollama's models have them.

    ``texts`` are by the last part of their media types: ``license``, ``template``, ``system``.
    """
    config = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_type": parameters,
        "file_type": quantisation,
    }
    kinds = ["model", *texts]
    bodies = [weights, *(text.encode() for text in texts.values())]
    made = upstream.add_model_of(name, bodies, json.dumps(config).encode())
    manifest = json.loads(made.manifest_bytes)
    for layer, kind in zip(manifest["layers"], kinds):
        layer["mediaType"] = _TYPE + kind
    upstream.set_manifest(name, json.dumps(manifest).encode())
    return upstream.models[name]
