"""Yukari: a pull-through cache for Ollama model registries, on Twisted."""

__version__ = "0.1.0"
