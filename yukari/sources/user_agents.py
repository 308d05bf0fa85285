"""The User-Agents by which a registry is asked whose manifests differ by them."""

from __future__ import annotations

from yukari.names import AS_LLAMA_CPP, Repository
from yukari.sources.ways import USER_AGENT

OLLAMA = "ollama/0.34.4 (amd64 linux) Go/go1.26.0"
LLAMA_CPP = "llama-cpp"


def agent_for(name: Repository, client: str, *, by_agent: bool) -> str:
    """
    Return the User-Agent by which to ask for a model for a client of this one.

    Where manifests differ, ``by_agent``, that is one of Ollama's for whatever is not llama.cpp: all
    of these have one manifest here.
    """
    if not by_agent:
        return client or USER_AGENT
    if name.registry.endswith(AS_LLAMA_CPP):
        return client if "llama-cpp" in client else LLAMA_CPP
    return client if client.startswith("ollama/") else OLLAMA
