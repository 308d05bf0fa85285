"""
The roots of a store that several daemons share, and the blobs that each stands on.

They are read anew before anything is removed; a root that has not changed since is not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from yukari.library.catalog.reads import digest_of
from yukari.library.catalog.schema import writing
from yukari.names import Digest, Repository
from yukari.storage.shared import Root, RootNeeds

_BY_A_TAG = (
    "EXISTS (SELECT 1 FROM stands_on s JOIN roots t ON t.manifest = s.manifest"
    " WHERE s.blob = {} AND t.is_tag)"
)


class CatalogRoots:
    """The tables ``roots`` and ``stands_on``; every method blocks."""

    _db: sqlite3.Connection

    def begin_roots(self) -> int:
        """Return the number of a new look at all roots."""
        (last,) = self._db.execute("SELECT coalesce(max(seen), 0) FROM roots").fetchone()
        return int(last) + 1

    def see_roots(self, page: Iterable[Root], look: int) -> list[Root]:
        """Note that these roots are there; return those whose blobs are not known."""
        unknown = []
        with writing(self._db):
            for root in page:
                seen = self._db.execute(
                    "UPDATE roots SET seen = ?, modified = ? WHERE key = ? AND version = ?",
                    (look, root.modified, root.key, root.version),
                )
                if not seen.rowcount:
                    unknown.append(root)
        return unknown

    def put_roots(self, found: Iterable[RootNeeds], look: int) -> None:
        """Record the blobs that roots stand on."""
        with writing(self._db):
            for each in found:
                manifest, root = each.manifest.raw, each.root
                self._db.execute(
                    "INSERT OR REPLACE INTO roots VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        root.key,
                        str(root.name),
                        each.version if each.is_final else "",
                        manifest,
                        root.modified,
                        root.digest is None,
                        look,
                    ),
                )
                self._db.execute("DELETE FROM stands_on WHERE manifest = ?", (manifest,))
                self._db.executemany(
                    "INSERT INTO stands_on VALUES (?, ?)",
                    [(manifest, digest.raw) for digest in each.needs],
                )

    def end_roots(self, look: int) -> None:
        """Forget the roots that the look has not found."""
        with writing(self._db):
            gone = self._db.execute("DELETE FROM roots WHERE seen != ?", (look,))
            if gone.rowcount:
                self._db.execute(
                    "DELETE FROM stands_on WHERE manifest NOT IN (SELECT manifest FROM roots)"
                )

    def without_root(
        self, digests: Iterable[Digest], oldest: float, dropped: Iterable[Digest] = ()
    ) -> list[Digest]:
        """
        Return those digests on which no tag stands and no manifest that is stored by its digest.

        Such manifests do not count if they were put before ``oldest``, in seconds of the epoch, or
        are among the ``dropped``.
        """
        self._choose("asked", digests)
        self._choose("dropped", dropped)
        found = self._db.execute(
            "SELECT digest FROM temp.asked WHERE NOT EXISTS"
            " (SELECT 1 FROM stands_on s JOIN roots r ON r.manifest = s.manifest"
            " WHERE s.blob = asked.digest AND (r.is_tag OR"
            " (r.modified > ? AND r.manifest NOT IN temp.dropped)))",
            (oldest,),
        )
        return [digest_of(digest) for (digest,) in found]

    def expired_roots(self, oldest: float, dropped: Iterable[Digest] = ()) -> list[Root]:
        """Return the manifests stored by digest that `without_root` ignores and no tag needs."""
        self._choose("dropped", dropped)
        found = self._db.execute(
            "SELECT key, repository, version, modified, manifest FROM roots r WHERE NOT is_tag"
            " AND (modified <= ? OR manifest IN temp.dropped)"
            f" AND NOT {_BY_A_TAG.format('r.manifest')}",
            (oldest,),
        )
        return [
            Root(key, Repository.parse(name), version, modified, digest_of(manifest))
            for key, name, version, modified, manifest in found
        ]

    def kept_by_digest(self, name: Repository) -> list[Digest]:
        """Return what a model's manifests stand on that are stored by their digests."""
        found = self._db.execute(
            "SELECT DISTINCT s.blob FROM roots r JOIN stands_on s ON s.manifest = r.manifest"
            " WHERE r.repository = ? AND NOT r.is_tag",
            (str(name),),
        )
        return [digest_of(blob) for (blob,) in found]

    def _choose(self, table: str, digests: Iterable[Digest]) -> None:
        self._db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table} (digest BLOB PRIMARY KEY)")
        self._db.execute(f"DELETE FROM temp.{table}")
        self._db.executemany(
            f"INSERT OR IGNORE INTO temp.{table} VALUES (?)", [(each.raw,) for each in digests]
        )
