"""The User-Agents for registries whose manifests differ by User-Agent."""

from __future__ import annotations

from yukari.names import AS_LLAMA_CPP, Repository
from yukari.sources.ways import USER_AGENT

OLLAMA = "ollama/0.34.4 (amd64 linux) Go/go1.26.0"
"""What is sent in place of the User-Agent of any other client than llama.cpp."""
LLAMA_CPP = "llama-cpp"
"""What is sent for a name of llama.cpp's if another client asks for it."""


def agent_for(name: Repository, client: str, *, by_agent: bool) -> str:
    """
    Return the User-Agent to ask a registry with, for a client whose own is ``client``.

    If manifests differ by it (``by_agent``), it is one of llama.cpp's for a name of llama.cpp's,
    else one of Ollama's: all clients but llama.cpp have one manifest here.
    """
    if not by_agent:
        return client or USER_AGENT
    if name.registry.endswith(AS_LLAMA_CPP):
        return client if "llama-cpp" in client else LLAMA_CPP
    return client if client.startswith("ollama/") else OLLAMA
