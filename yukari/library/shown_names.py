"""Models' names as Ollama shows and takes them: ``llama3.2``, ``user/model:tag``."""

from __future__ import annotations

from typing import Optional

from attrs import frozen

from yukari.errors import RegistryError, name_invalid
from yukari.names import DEFAULT, Digest, InvalidName, Repository, Tag

_LIBRARY = "library"
_OLLAMAS_OWN = ("registry.ollama.ai", "ollama.com")


@frozen
class Wanted:
    """A model that somebody named; with a digest, that version of it."""

    name: Repository
    tag: Tag
    digest: Optional[Digest] = None


@frozen
class ShownNames:
    """The names of a registry's models; those of its own namespace ``library`` are short."""

    registry: str
    """The registry's host, with its port if need be."""

    def parse(self, text: object) -> Wanted:
        """
        Read ``[[HOST/]NAMESPACE/]MODEL[:TAG][@sha256:HEX]``.

        `RegistryError` if it is no name, or one of another registry.
        """
        if not isinstance(text, str) or not text:
            raise name_invalid("expected a model's name")
        rest, _, version = text.partition("@")
        scheme = rest.find("://")
        rest = rest if scheme < 0 else rest[scheme + 3 :]
        path, tag = rest, "latest"
        if rest.rfind(":") > rest.rfind("/"):
            path, _, tag = rest.rpartition(":")
        parts = path.split("/")
        if len(parts) == 1:
            parts.insert(0, _LIBRARY)
        host = parts.pop(0) if len(parts) == 3 else self.registry
        try:
            if len(parts) != 2:
                raise InvalidName(f"name {ascii(text)[:100]}: expected [NAMESPACE/]MODEL[:TAG]")
            digest = Digest.parse(version) if version else None
            wanted = Wanted(Repository(DEFAULT, *parts), Tag(tag), digest)
        except InvalidName as error:
            raise name_invalid(str(error)) from None
        if not self._is_ours(host):
            raise RegistryError("NAME_UNKNOWN", f"this cache mirrors {self.registry} alone", 400)
        return wanted

    def _is_ours(self, host: str) -> bool:
        ours, host = self.registry.lower(), host.lower()
        return host == ours or (host in _OLLAMAS_OWN and ours in _OLLAMAS_OWN)

    def show(self, repository: str, tag: str) -> str:
        """Return a model's name as Ollama shows it; ``repository`` is ``NAMESPACE/MODEL``."""
        return f"{repository.removeprefix(_LIBRARY + '/')}:{tag}"

    def whole(self, name: Repository, tag: Tag) -> str:
        """Return a model's name with its registry."""
        return f"{self.registry}/{name}:{tag}"
