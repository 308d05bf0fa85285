"""
The catalog's SQL: one SQLite file, used by one thread.

A tag has one current version and the versions that it named before. A version
stands on blobs: its manifests' bytes, their configs and layers. How many
versions need a blob is counted by triggers.

`sqlite3.Error` from any method means that the file is to be made anew; see `catalog`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Optional

from yukari.library.catalog.looks import CatalogLooks
from yukari.library.catalog.reads import VERIFIED, CatalogReads, digest_of, searched
from yukari.library.catalog.roots import CatalogRoots
from yukari.library.catalog.rows import MAX_CLIENTS, Indexed, Need, Usage, Version
from yukari.library.catalog.schema import make_database, open_database, writing
from yukari.names import Digest, Repository, Tag
from yukari.storage.shared import Pulled


class CatalogFile(CatalogReads, CatalogRoots, CatalogLooks):
    """The tables; every method blocks, and all are called in one thread at a time."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it anew if it is missing, damaged or of another version."""
        self._path = path
        self._db, self.is_new = open_database(path)
        # `is_new`: it was made anew and knows nothing of what is stored.
        self._sweep = 0

    @property
    def is_in_memory(self) -> bool:
        """Whether there is no file."""
        return self._path == ":memory:"

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the file."""
        return not self.is_in_memory and not os.path.exists(self._path)

    def wait_for_lock(self, seconds: float) -> None:
        """Set how long calls wait, from now on, for another program that has locked the file."""
        self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def reset(self) -> None:
        """Forget everything, the file too."""
        self._db.close()
        self._db = make_database(self._path)
        self.is_new = True

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._db.close()

    # what is stored

    def put(self, found: Iterable[Indexed], now: float) -> None:
        """Record the version that each tag names; the one before is superseded as of ``now``."""
        with writing(self._db):
            for each in found:
                self._put(each, now)

    def _put(self, found: Indexed, now: float) -> None:
        version, digest = found.version, found.version.digest.raw
        tag = self._tag_id(version)
        self._db.execute(
            "UPDATE tags SET checked_at = :at, listed_at = NULL, own = :own, seen = :sweep,"
            " gone_since = CASE WHEN :at > gone_since THEN NULL ELSE gone_since END"
            " WHERE id = :tag",
            {"tag": tag, "at": found.checked_at, "own": found.own, "sweep": self._sweep},
        )
        self._db.execute(
            "UPDATE versions SET superseded_at = ?"
            " WHERE tag = ? AND digest != ? AND superseded_at IS NULL",
            (now, tag, digest),
        )
        (number,) = self._db.execute(
            "INSERT INTO versions (tag, digest, stored_at, used_at, details, words)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET superseded_at = NULL, details = excluded.details, words = excluded.words,"
            " used_at = max(used_at, excluded.used_at) RETURNING id",
            (tag, digest, found.stored_at, found.stored_at, found.details, searched(found)),
        ).fetchone()
        self._need(number, version.needs)
        self._db.executemany(
            "UPDATE blobs SET stored = 1, manifest = 1 WHERE digest = ?",
            [(digest.raw,) for digest in found.manifests],
        )

    def adopt(self, found: Iterable[Version], superseded_at: float) -> None:
        """Record superseded versions of tags that are not known any more."""
        with writing(self._db):
            for version in found:
                (number,) = self._db.execute(
                    "INSERT INTO versions"
                    " (tag, digest, stored_at, used_at, superseded_at, details)"
                    " VALUES (?, ?, ?, 0, ?, '{}') ON CONFLICT DO UPDATE SET digest = digest"
                    " RETURNING id",
                    (self._tag_id(version), version.digest.raw, superseded_at, superseded_at),
                ).fetchone()
                self._need(number, version.needs)

    def _tag_id(self, version: Version) -> int:
        key = str(version.name), str(version.tag)
        self._db.execute(
            "INSERT INTO tags (repository, tag) VALUES (?, ?) ON CONFLICT DO NOTHING", key
        )
        found = self._db.execute("SELECT id FROM tags WHERE repository = ? AND tag = ?", key)
        return int(found.fetchone()[0])

    def _need(self, version: int, needs: Sequence[Need]) -> None:
        """Let a version stand on these blobs and on no others."""
        rows = [(need.digest.raw, need.size) for need in needs]
        self._db.executemany(
            "INSERT INTO blobs (digest, size) VALUES (?, ?) ON CONFLICT DO NOTHING", rows
        )
        find = "SELECT id FROM blobs WHERE digest = ?"
        wanted = {self._db.execute(find, (digest,)).fetchone()[0] for digest, _ in rows}
        had = {
            blob
            for (blob,) in self._db.execute("SELECT blob FROM needs WHERE version = ?", (version,))
        }
        self._db.executemany(
            "DELETE FROM needs WHERE version = ? AND blob = ?",
            [(version, blob) for blob in had - wanted],
        )
        self._db.executemany(
            "INSERT INTO needs (version, blob) VALUES (?, ?)",
            [(version, blob) for blob in wanted - had],
        )

    def remove(self, name: Repository, tag: Tag, digest: Optional[Digest] = None) -> list[Digest]:
        """
        Forget a version of a tag, or the tag with all it ever named.

        Return the blobs that no version stands on any more, which are still stored.
        """
        with writing(self._db):
            found = self._db.execute(
                "SELECT v.id, v.tag FROM versions v JOIN tags t ON t.id = v.tag"
                " WHERE t.repository = ? AND t.tag = ? AND v.digest = coalesce(?, v.digest)",
                (str(name), str(tag), None if digest is None else digest.raw),
            ).fetchall()
            blobs: dict[int, None] = {}
            for version, _ in found:
                rows = self._db.execute("SELECT blob FROM needs WHERE version = ?", (version,))
                blobs.update((blob, None) for (blob,) in rows.fetchall())
                self._db.execute("DELETE FROM needs WHERE version = ?", (version,))
                self._db.execute("DELETE FROM versions WHERE id = ?", (version,))
            for _, number in found[:1]:
                if not self._db.execute(
                    "SELECT 1 FROM versions WHERE tag = ?", (number,)
                ).fetchone():
                    self._db.execute("DELETE FROM clients WHERE tag = ?", (number,))
                    self._db.execute("DELETE FROM tags WHERE id = ?", (number,))
            unneeded = []
            for blob in blobs:
                unneeded += self._db.execute(
                    "SELECT digest FROM blobs WHERE id = ? AND needed = 0 AND stored", (blob,)
                ).fetchall()
                self._db.execute(
                    "DELETE FROM blobs WHERE id = ? AND needed = 0 AND NOT stored", (blob,)
                )
            return [digest_of(found) for (found,) in unneeded]

    def forget_superseded(self, digest: Digest) -> None:
        """Forget the superseded versions of this digest, which are kept no more."""
        found = self._db.execute(
            "SELECT t.repository, t.tag FROM versions v JOIN tags t ON t.id = v.tag"
            " WHERE v.digest = ? AND v.superseded_at IS NOT NULL",
            (digest.raw,),
        ).fetchall()
        for name, tag in found:
            self.remove(Repository.parse(name), Tag(tag), digest)

    def blobs_stored(
        self, found: Iterable[tuple[Digest, int]], verified_at: Optional[float] = None
    ) -> None:
        """Record that blobs are stored, their sizes in bytes, and when their digests were right."""
        with writing(self._db):
            self._db.executemany(
                "INSERT INTO blobs (digest, size, stored, disk_verified, bucket_verified)"
                " VALUES (?1, ?2, 1, ?3, ?3) ON CONFLICT DO UPDATE"
                " SET stored = 1, size = excluded.size,"
                " disk_verified = excluded.disk_verified,"
                " bucket_verified = excluded.bucket_verified",
                [(digest.raw, size, verified_at) for digest, size in found],
            )

    def verified(self, place: str, digest: Digest, at: float) -> None:
        """Record that the copy of a blob in that place was read, and its digest is right."""
        self._db.execute(
            f"UPDATE blobs SET {VERIFIED[place]} = ? WHERE digest = ?", (at, digest.raw)
        )

    def blob_removed(self, digest: Digest) -> None:
        """Record that a blob is not stored any more."""
        with writing(self._db):
            self._db.execute(
                "UPDATE blobs SET stored = 0, disk_verified = NULL, bucket_verified = NULL"
                " WHERE digest = ?",
                (digest.raw,),
            )
            self._db.execute("DELETE FROM blobs WHERE digest = ? AND needed = 0", (digest.raw,))

    # what is asked and checked

    def use(
        self,
        pulls: Mapping[tuple[Repository, Tag], Usage],
        sent: Mapping[tuple[Repository, Digest], int],
    ) -> None:
        """Count pulls, and the bytes of each blob that were sent as part of a model."""
        with writing(self._db):
            for (name, tag), usage in pulls.items():
                self._count_pulls(str(name), str(tag), usage)
            for (name, digest), count in sent.items():
                # A blob's request names no tag: it goes to the one that was pulled last.
                self._db.execute(
                    "UPDATE tags SET sent = sent + ? WHERE id = (SELECT t.id FROM blobs b"
                    " JOIN needs n ON n.blob = b.id JOIN versions v ON v.id = n.version"
                    " JOIN tags t ON t.id = v.tag WHERE b.digest = ? AND t.repository = ?"
                    " ORDER BY t.last_pull DESC LIMIT 1)",
                    (count, digest.raw, str(name)),
                )

    def _count_pulls(self, name: str, tag: str, usage: Usage) -> None:
        found = self._db.execute(
            "UPDATE tags SET pulls = pulls + :pulls,"
            " last_pull = max(:last, coalesce(last_pull, 0)),"
            " first_pull = min(:first, coalesce(first_pull, :first))"
            " WHERE repository = :name AND tag = :tag RETURNING id, clients",
            {
                "name": name,
                "tag": tag,
                "pulls": usage.pulls,
                "first": usage.first,
                "last": usage.last,
            },
        ).fetchone()
        if found is None:
            return
        number, clients = found
        self._db.execute(
            "UPDATE versions SET used_at = max(used_at, ?) WHERE tag = ? AND superseded_at IS NULL",
            (usage.last, number),
        )
        for client in sorted(usage.clients)[: MAX_CLIENTS - clients]:
            self._db.execute(
                "INSERT INTO clients (tag, client) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (number, client),
            )
        self._db.execute(
            "UPDATE tags SET clients = (SELECT count(*) FROM clients WHERE tag = id) WHERE id = ?",
            (number,),
        )

    def pulled_elsewhere(self, found: Iterable[Pulled]) -> None:
        """Record pulls by the clients of other daemons."""
        with writing(self._db):
            for each in found:
                key = each.at, str(each.name), str(each.tag)
                self._db.execute(
                    "UPDATE versions SET used_at = max(used_at, ?) WHERE superseded_at IS NULL"
                    " AND tag = (SELECT id FROM tags WHERE repository = ? AND tag = ?)",
                    key,
                )
                self._db.execute(
                    "UPDATE tags SET last_pull = ?1, first_pull = min(?1, coalesce(first_pull, ?1))"
                    " WHERE repository = ?2 AND tag = ?3 AND coalesce(last_pull, 0) < ?1",
                    key,
                )

    def add_traffic(self, rows: Iterable[tuple[int, int, int]], oldest: int) -> None:
        """Add bytes to hours, ``(hour, sent, received)``, and forget hours before ``oldest``."""
        with writing(self._db):
            self._db.executemany(
                "INSERT INTO traffic VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET sent = sent + excluded.sent, received = received + excluded.received",
                rows,
            )
            self._db.execute("DELETE FROM traffic WHERE hour < ?", (oldest,))

    def add_clients(self, day: int, sent: Mapping[str, int], most: int) -> None:
        """Add bytes to clients of ``day``; forget other days, and all but the ``most`` busiest."""
        with writing(self._db):
            self._db.execute("DELETE FROM clients_today WHERE day != ?", (day,))
            self._db.executemany(
                "INSERT INTO clients_today VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET sent = sent + excluded.sent",
                [(client, day, count) for client, count in sent.items()],
            )
            self._db.execute(
                "DELETE FROM clients_today WHERE client IN"
                " (SELECT client FROM clients_today ORDER BY sent DESC LIMIT -1 OFFSET ?)",
                (most,),
            )

    def checked(self, name: Repository, tag: Tag, at: float, *, gone: bool) -> None:
        """Record whether upstream had a tag when it was asked."""
        self._db.execute(
            "UPDATE tags SET gone_since = coalesce(gone_since, ?) WHERE repository = ? AND tag = ?"
            if gone
            else "UPDATE tags SET gone_since = NULL, listed_at = NULL, checked_at = ?"
            " WHERE repository = ? AND tag = ?",
            (at, str(name), str(tag)),
        )
