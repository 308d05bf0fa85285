"""The catalog's part in a look through the store: what was seen, and what is gone."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable

from yukari.library.catalog.reads import digest_of
from yukari.library.catalog.rows import SAME_TIME
from yukari.library.catalog.schema import writing
from yukari.names import Digest, Repository, Tag


class CatalogLooks:
    """The reads and writes of a look; every method blocks."""

    _db: sqlite3.Connection
    _sweep: int
    """The number of the present look; no earlier look had it."""

    def changed(
        self, page: Iterable[tuple[Repository, Tag, float]]
    ) -> list[tuple[Repository, Tag]]:
        """Return the tags that are listed with another time than is known, or are not known."""
        found = []
        for name, tag, checked_at in page:
            (known,) = self._db.execute(
                "SELECT count(*) FROM versions v JOIN tags t ON t.id = v.tag"
                " WHERE repository = ? AND t.tag = ? AND superseded_at IS NULL"
                " AND abs(coalesce(listed_at, checked_at) - ?) < ?",
                (str(name), str(tag), checked_at, SAME_TIME),
            ).fetchone()
            if not known:
                found.append((name, tag))
        return found

    def listed(self, page: Iterable[tuple[Repository, Tag, float]]) -> None:
        """Record the time that a listing has for each tag: of a bucket, when it was put."""
        with writing(self._db):
            self._db.executemany(
                "UPDATE tags SET listed_at = ? WHERE repository = ? AND tag = ?",
                [(at, str(name), str(tag)) for name, tag, at in page],
            )

    def lacking(self, blobs: Iterable[Digest]) -> list[tuple[Repository, Tag]]:
        """Return the tags that stand on one of these blobs and of which no details are known."""
        found: dict[tuple[str, str], None] = {}
        for digest in blobs:
            rows = self._db.execute(
                "SELECT DISTINCT t.repository, t.tag FROM blobs b JOIN needs n ON n.blob = b.id"
                " JOIN versions v ON v.id = n.version JOIN tags t ON t.id = v.tag"
                " WHERE b.digest = ? AND v.superseded_at IS NULL AND v.details = '{}' LIMIT 1000",
                (digest.raw,),
            )
            found.update((row, None) for row in rows)
        return [(Repository.parse(name), Tag(tag)) for name, tag in found]

    def begin_sweep(self) -> None:
        """Mark everything as not seen."""
        # Another number than any sweep had before: to mark 100,000 rows anew takes a second.
        self._sweep = secrets.randbits(62)

    def see_tags(self, page: Iterable[tuple[Repository, Tag]]) -> None:
        """Mark tags as seen in the files."""
        with writing(self._db):
            self._db.executemany(
                "UPDATE tags SET seen = ? WHERE repository = ? AND tag = ?",
                [(self._sweep, str(name), str(tag)) for name, tag in page],
            )

    def see_blobs(self, page: Iterable[tuple[Digest, int]]) -> None:
        """Mark blobs as seen in the files, and record their sizes in bytes."""
        with writing(self._db):
            self._db.executemany(
                "INSERT INTO blobs (digest, size, stored, seen) VALUES (?, ?, 1, ?)"
                " ON CONFLICT DO UPDATE SET stored = 1, seen = excluded.seen, size = excluded.size,"
                " disk_verified = iif(size = excluded.size, disk_verified, NULL),"
                " bucket_verified = iif(size = excluded.size, bucket_verified, NULL)",
                [(digest.raw, size, self._sweep) for digest, size in page],
            )

    def is_place(self, place: str) -> bool:
        """Whether the last whole look was at the same directories; True if there was none."""
        found = self._db.execute("SELECT place FROM place").fetchone()
        return found is None or bool(found[0] == place)

    def set_place(self, place: str) -> None:
        """Record the directories of a whole look."""
        with writing(self._db):
            self._db.execute("DELETE FROM place")
            self._db.execute("INSERT INTO place VALUES (?)", (place,))

    def supersede(self, name: Repository, tag: Tag, now: float) -> None:
        """Record that a tag is gone; the version that it named is kept for a while."""
        self._db.execute(
            "UPDATE versions SET superseded_at = ? WHERE superseded_at IS NULL"
            " AND tag = (SELECT id FROM tags WHERE repository = ? AND tag = ?)",
            (now, str(name), str(tag)),
        )

    def unseen(self) -> tuple[list[tuple[Repository, Tag]], list[Digest]]:
        """Return the tags with a current version, and the stored blobs, that were not seen."""
        tags = self._db.execute(
            "SELECT repository, tag FROM tags t WHERE seen != ? AND EXISTS"
            " (SELECT 1 FROM versions v WHERE v.tag = t.id AND superseded_at IS NULL)",
            (self._sweep,),
        )
        # Manifests may lie elsewhere than blobs do.
        blobs = self._db.execute(
            "SELECT digest FROM blobs WHERE seen != ? AND stored AND NOT manifest", (self._sweep,)
        )
        return (
            [(Repository.parse(name), Tag(tag)) for name, tag in tags],
            [digest_of(found) for (found,) in blobs],
        )
