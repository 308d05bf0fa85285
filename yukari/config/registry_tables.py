"""
The registries that settings name: by UPSTREAMS, and by tables of the configuration file.

A table ``[registries.NAME]`` says more of a registry that UPSTREAMS names, or names another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, evolve, field

from yukari.config.config_file import ConfigFile
from yukari.config.gathering import gather
from yukari.config.reading import Sources
from yukari.config.registries import DEFAULT_NAME, KEYS, RegistrySettings, parse_name
from yukari.config.setting import Setting, SettingError

TABLES = "registries"
"""The key of a configuration file that has the tables."""
_NAMES = tuple(row.name for row in KEYS)


@define
class RegistryReader:
    """Reads all registries; ``upstreams`` is the declaration of UPSTREAMS."""

    _sources: Sources
    _upstreams: Setting
    errors: list[SettingError] = field(factory=list, init=False)
    """The errors in tables."""
    _where: dict[tuple[str, str], tuple[str, str]] = field(factory=dict, init=False)
    """The setting that gave a registry's field, and its text; "" stands for all other fields."""

    def read(self, values: Mapping[str, Any]) -> tuple[RegistrySettings, ...]:
        """
        Return the registries, the default one first; ``values`` are the other settings.

        `SettingError` for what two of them share. None at all if tables are wrong: see ``errors``.
        """
        default = evolve(
            RegistrySettings.default(values["upstream_registry"]),
            address=values["upstream_address"],
            ca=values["upstream_ca"],
            key=values["upstream_key"],
        )
        self._where[DEFAULT_NAME, ""] = "UPSTREAM_REGISTRY", str(default.url)
        said = self._sources.said(self._upstreams)
        listed = self._listed(values["upstreams"], said)
        file = self._sources.file
        tables = {} if file is None else file.tables(TABLES)
        spare = {each.name: each for each in listed} if said is None else {}
        named = [] if said is None else listed
        in_file = bool(file and said and said[0][0] == file.where(self._upstreams.name))
        seen: set[str] = set()
        for key, table in tables.items():
            try:
                name = parse_name(key)
            except ValueError as error:
                self.errors.append(SettingError(table.path_of_table, key, str(error)))
                continue
            if name in seen:
                expected = "expected each registry once: capitals do not count"
                self.errors.append(SettingError(table.path_of_table, key, expected))
                continue
            seen.add(name)
            at = next((at for at, each in enumerate(named) if each.name == name), None)
            base = spare.get(name) if at is None else named[at]
            found = self._read_table(name, table, base, at is not None, in_file)
            if found is not None and at is not None:
                named[at] = found
            elif found is not None:
                named.append(found)
                spare.pop(name, None)
        if self.errors:
            return ()
        binds = (*values["bind"], *values["admin_bind"])
        first, *others = gather(default, named, list(spare.values()), self._given, binds)
        return first, *(evolve(each, ca=each.ca or default.ca) for each in others)

    def _listed(
        self,
        parsed: Sequence[RegistrySettings | None],
        said: Sequence[tuple[str, str]] | None,
    ) -> list[RegistrySettings]:
        """Return the registries of UPSTREAMS, and note where each was given."""
        found = []
        for at, each in enumerate(parsed):
            where = said[at][0] if said else self._upstreams.environment
            if each is not None:
                self._where[each.name, ""] = where, f"{each.name}={each.url}"
                found.append(each)
            elif len(parsed) > 1:
                raise SettingError(where, "none", "expected none alone, or registries without it")
        return found

    def _read_table(
        self,
        name: str,
        table: ConfigFile,
        base: RegistrySettings | None,
        is_listed: bool,
        listed_in_file: bool,
    ) -> RegistrySettings | None:
        """Return ``base`` with what a table says; None if it lacks a URL, or has it twice."""
        wrong = len(self.errors)
        self.errors += table.unknown(_NAMES, "a key of a registry")
        keys, found = Sources({}, {}, table), {}
        for row in KEYS:
            try:
                said = keys.said(row)
                if said is not None:
                    found[row.field] = keys.read(row)
                    self._where[name, row.field] = said[0]
            except SettingError as error:
                self.errors.append(error)
        url = found.pop("url", None)
        if is_listed and url is not None and listed_in_file:
            expected = f"expected the URL once: {self._upstreams.name} has one for {name}"
            self.errors.append(SettingError(table.where("url"), str(url), expected))
        elif not is_listed and url is not None:
            base = RegistrySettings.named(name, url)
            self._where[name, ""] = self._where[name, "url"]
        elif base is None and len(self.errors) == wrong:
            expected = f"expected its url too, or {name} in {self._upstreams.name}"
            self.errors.append(SettingError(table.path_of_table, None, expected))
        return None if base is None or len(self.errors) > wrong else evolve(base, **found)

    def _given(self, registry: RegistrySettings, of: str) -> tuple[str, str]:
        """Return the setting that gave a field, and its text."""
        return self._where.get((registry.name, of)) or self._where[registry.name, ""]
