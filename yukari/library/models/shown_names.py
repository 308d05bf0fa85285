"""Models' names as Ollama shows and takes them: ``llama3.2``, ``hf.co/user/model:tag``."""

from __future__ import annotations

from typing import Optional

from attrs import frozen

from yukari.config.registry_names import RegistryNames
from yukari.errors import RegistryError, name_invalid
from yukari.names import DEFAULT, Digest, InvalidName, Repository, Tag

_LIBRARY = "library"


@frozen
class Wanted:
    """A model that somebody named; with a digest, that version of it."""

    name: Repository
    tag: Tag
    digest: Optional[Digest] = None


@frozen
class ShownNames:
    """
    The names of all models.

    Those of the default registry have no host, and of its namespace ``library`` they are short.
    """

    registries: RegistryNames

    @property
    def registry(self) -> str:
        """The default registry's host, with its port if need be."""
        return self.registries.default_host

    def parse(self, text: object) -> Wanted:
        """
        Read ``[[HOST/]NAMESPACE/]MODEL[:TAG][@sha256:HEX]``.

        `RegistryError` if it is no name, or one of a registry that is not mirrored.
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
        registry = self.registries.find(host)
        try:
            if len(parts) != 2:
                raise InvalidName(f"name {ascii(text)[:100]}: expected [NAMESPACE/]MODEL[:TAG]")
            digest = Digest.parse(version) if version else None
            name = self.registries.repository(parts[0], parts[1], registry or DEFAULT)
            wanted = Wanted(name, Tag(tag), digest)
        except InvalidName as error:
            raise name_invalid(str(error)) from None
        if registry is None:
            mirrored = ", ".join((self.registry, *self.registries.hosts_beside))
            raise RegistryError(
                "NAME_UNKNOWN", f"this cache mirrors {mirrored}, not {host[:100]}", 400
            )
        return wanted

    def show(self, repository: str, tag: str) -> str:
        """Return a model's name as Ollama shows it; ``repository`` as `Repository` writes it."""
        return f"{repository.removeprefix(_LIBRARY + '/')}:{tag}"

    def whole(self, name: Repository, tag: Tag) -> str:
        """Return a model's name with its registry."""
        return f"{name.registry or self.registry}/{name.path}:{tag}"
