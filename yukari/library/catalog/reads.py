"""Queries of the catalog's tables."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Optional

from yukari.library.catalog.rows import (
    Candidate,
    Entry,
    Indexed,
    Need,
    Outline,
    Totals,
    Unverified,
    Version,
)
from yukari.names import Digest, Repository, Tag

_COLUMNS = """
    t.repository, t.tag, lower(hex(v.digest)), v.size, v.missing, v.stored_at, v.superseded_at,
    t.checked_at, t.gone_since, t.first_pull, t.last_pull, t.pulls, t.clients, t.sent, t.own,
    v.details"""
_ROWS = (
    f"SELECT {_COLUMNS}"
    """
FROM {page} JOIN versions v ON v.tag = t.id AND v.superseded_at IS {which}
ORDER BY t.repository, t.tag, v.superseded_at
"""
)
LISTED = {
    # As Ollama shows it; see `yukari.library.models.shown_names`.
    "name": "CASE WHEN t.repository GLOB 'library/*' THEN substr(t.repository, 9)"
    " ELSE t.repository END || ':' || t.tag",
    "pinned": "pins.value",
    **dict(zip(Entry._fields, map(str.strip, _COLUMNS.split(",")))),
}
"""The columns of `CatalogReads.listing`: the name, who pinned it, and `Entry`'s fields."""
# CROSS JOIN keeps the order of the tables: each of these reads an index, and stops early.
_ORDERS = {
    "name": ("tags t CROSS JOIN versions v", "t.repository, t.tag"),
    "size": ("versions v CROSS JOIN tags t", "v.size DESC, v.id"),
    "pulled": ("tags t CROSS JOIN versions v", "t.last_pull DESC, t.repository, t.tag"),
}
VERIFIED = {"disk": "disk_verified", "bucket": "bucket_verified"}
"""The column that says when a blob's copy in a place was last found right."""
_FEW = 1000
"""Matches that are sorted, at most; more are read in the order of an index."""
_SEARCHED = ("parameter_size", "quantization_level", "family", "license")
"""The details that a search looks at, beside the name."""
_LIKE = re.compile("[%_!]")
"""The characters with a meaning in a pattern of LIKE."""


def digest_of(found: bytes) -> Digest:
    """Return the digest that the tables have as these bytes."""
    return Digest(found.hex())


def _escaped(text: str) -> str:
    """Return a text that LIKE takes as it stands."""
    return _LIKE.sub(r"!\g<0>", text)


def searched(found: Indexed) -> str:
    """Return the text of a version that searches look at."""
    details = json.loads(found.details)
    facts = [details.get(key) for key in _SEARCHED] if isinstance(details, dict) else []
    name = f"{found.version.name}:{found.version.tag}"
    return " ".join([name, *(each for each in facts if isinstance(each, str))])


class CatalogReads:
    """Questions to the tables; every one blocks."""

    _db: sqlite3.Connection

    def page(
        self, after: tuple[str, str] = ("", ""), most: int = 500, *, superseded: bool = False
    ) -> list[Entry]:
        """
        Return what up to ``most`` tags name, in order, from behind ``after``.

        Or, if ``superseded``, what they named before.
        """
        page = (
            "(SELECT * FROM tags WHERE (repository, tag) > (?, ?)"
            " ORDER BY repository, tag LIMIT ?) t"
        )
        sql = _ROWS.format(page=page, which="NOT NULL" if superseded else "NULL")
        return list(map(Entry._make, self._db.execute(sql, (*after, most))))

    def listing(
        self,
        columns: Sequence[str],
        after: tuple[str, str],
        most: int,
        pinned: Mapping[str, str],
    ) -> tuple[bytes, Optional[tuple[str, str]]]:
        """
        Return some `LISTED` columns of what up to ``most`` tags name, from behind ``after``, as a
        list in JSON; and the last of these tags, None at the end.

        ``pinned`` has who pinned each ``NAMESPACE/MODEL:TAG``. SQLite makes the text: Python would
        take several times as long to make it of 100,000 tuples, with every other thread waiting.
        """
        behind = "(repository, tag) > (?, ?)"
        page = f"SELECT * FROM tags WHERE {behind} ORDER BY repository, tag LIMIT ?"
        last = self._db.execute(
            f"SELECT repository, tag FROM ({page}) ORDER BY repository DESC, tag DESC LIMIT 1",
            (*after, most),
        ).fetchone()
        rows = self._db.execute(
            f"WITH t AS ({page}), pins AS MATERIALIZED (SELECT key, value FROM json_each(?))"
            f" SELECT json_array({', '.join(LISTED[each] for each in columns)})"
            " FROM t JOIN versions v ON v.tag = t.id AND v.superseded_at IS NULL"
            " LEFT JOIN pins ON pins.key = t.repository || ':' || t.tag"
            " ORDER BY t.repository, t.tag",
            (*after, most, json.dumps(pinned)),
        )
        return f"[{','.join(row for (row,) in rows)}]".encode(), last

    def models(self, registry: str, after: Optional[Repository], most: int) -> list[Repository]:
        """
        Return up to ``most`` stored models of a registry, sorted, from behind ``after``; None is
        before all.
        """
        # In this order a slash comes before what else a name may have, as it does for `Repository`.
        order = "replace(repository, '/', ' ')"
        begin, slashes = (f"{registry}/", 2) if registry else ("", 1)
        found = self._db.execute(
            f"SELECT DISTINCT repository FROM tags t WHERE {order} > replace(?, '/', ' ')"
            " AND length(repository) - length(replace(repository, '/', '')) = ?"
            " AND substr(repository, 1, ?) = ? AND EXISTS"
            " (SELECT 1 FROM versions v WHERE v.tag = t.id AND v.superseded_at IS NULL)"
            f" ORDER BY {order} LIMIT ?",
            ("" if after is None else str(after), slashes, len(begin), begin, most),
        )
        return [Repository.parse(name) for (name,) in found]

    def find(self, name: Repository, tag: Tag, *, superseded: bool = False) -> list[Entry]:
        """Return what the tag names, or what it named before."""
        page = "(SELECT * FROM tags WHERE repository = ? AND tag = ?) t"
        sql = _ROWS.format(page=page, which="NOT NULL" if superseded else "NULL")
        return list(map(Entry._make, self._db.execute(sql, (str(name), str(tag)))))

    def search(
        self,
        words: Sequence[str],
        order: str = "name",
        begin: Sequence[str] = (),
        but: Sequence[str] = (),
    ) -> Iterator[Entry]:
        """
        Yield the current versions of tags that have all of these words, in any case, in order.

        Their names ``begin`` with one of these texts, if any are given, ``but`` with none of those.
        Nothing else may be called until the caller is done with it.
        """
        like = "words LIKE ? ESCAPE '!'"
        patterns = [f"%{_escaped(word)}%" for word in words]
        patterns += [f"{_escaped(text)}%" for text in (*begin, *but)]
        conditions = [like] * len(words)
        if begin:
            conditions.append(f"({' OR '.join([like] * len(begin))})")
        conditions += [f"NOT {like}"] * len(but)
        more = "".join(f" AND {each}" for each in conditions)
        where, given = f"WHERE v.tag = t.id AND v.superseded_at IS NULL{more}", patterns
        few = self._db.execute(
            f"SELECT id FROM versions WHERE superseded_at IS NULL{more} LIMIT {_FEW}", patterns
        ).fetchall()
        source, ordered = _ORDERS[order]
        if len(few) < _FEW:
            # To look through all in their order would take longer than to sort these.
            source = "versions v CROSS JOIN tags t"
            where = "WHERE v.tag = t.id AND v.id IN (SELECT value FROM json_each(?))"
            given = [json.dumps([number for (number,) in few])]
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM {source} {where} ORDER BY {ordered}", given
        )
        return map(Entry._make, found)

    def shared_with(
        self, name: Repository, tag: Tag, most: int
    ) -> dict[Digest, list[tuple[str, str]]]:
        """
        Return up to ``most`` other tags, as (repository, tag), that stand on each blob of a tag's.
        """
        found: dict[Digest, list[tuple[str, str]]] = {}
        blobs = self._db.execute(
            "SELECT b.id, b.digest FROM tags t JOIN versions v ON v.tag = t.id"
            " JOIN needs n ON n.version = v.id JOIN blobs b ON b.id = n.blob"
            " WHERE t.repository = ? AND t.tag = ? AND v.superseded_at IS NULL AND b.needed > 1",
            (str(name), str(tag)),
        ).fetchall()
        for number, digest in blobs:
            found[digest_of(digest)] = self._db.execute(
                "SELECT DISTINCT t.repository, t.tag FROM needs n JOIN versions v"
                " ON v.id = n.version JOIN tags t ON t.id = v.tag WHERE n.blob = ?"
                " AND v.superseded_at IS NULL AND (t.repository != ? OR t.tag != ?) LIMIT ?",
                (number, str(name), str(tag), most),
            ).fetchall()
        return found

    def missing(self, tags: Iterable[tuple[str, str]]) -> dict[tuple[str, str], list[Need]]:
        """Return the blobs that are not stored of what each tag, (repository, tag), names."""
        found = {}
        for key in tags:
            blobs = self._db.execute(
                "SELECT b.digest, b.size FROM tags t JOIN versions v ON v.tag = t.id"
                " JOIN needs n ON n.version = v.id JOIN blobs b ON b.id = n.blob"
                " WHERE t.repository = ? AND t.tag = ? AND v.superseded_at IS NULL"
                " AND NOT b.stored",
                key,
            )
            found[key] = [Need(digest_of(digest), size) for digest, size in blobs]
        return found

    def count_tags(self) -> int:
        """Return how many tags are stored."""
        (found,) = self._db.execute("SELECT count(*) FROM tags").fetchone()
        return int(found)

    def whatever_case(self, name: Repository, tag: Tag) -> Optional[tuple[Repository, Tag]]:
        """Return the tag that is stored under a name but for the case of its letters."""
        found = self._db.execute(
            "SELECT repository, t.tag FROM tags t JOIN versions v ON v.tag = t.id"
            " WHERE superseded_at IS NULL AND repository = ? COLLATE NOCASE"
            " AND t.tag = ? COLLATE NOCASE",
            (str(name), str(tag)),
        ).fetchone()
        return None if found is None else (Repository.parse(found[0]), Tag(found[1]))

    def own_bytes(self, name: Repository, tag: Tag) -> int:
        """Return how many bytes no other tag's versions stand on: what removing the tag frees."""
        (found,) = self._db.execute(
            "SELECT total(size) FROM (SELECT b.size, b.needed, count(*) mine FROM tags t"
            " JOIN versions v ON v.tag = t.id JOIN needs n ON n.version = v.id"
            " JOIN blobs b ON b.id = n.blob WHERE t.repository = ? AND t.tag = ? AND b.stored"
            " GROUP BY b.id) WHERE needed = mine",
            (str(name), str(tag)),
        ).fetchone()
        return int(found)

    def candidates(self, wanted: Callable[[Outline], bool] = lambda _: True) -> Iterator[Candidate]:
        """
        Yield what could be evicted: superseded versions, the oldest first, then current ones, the
        least recently pulled first; of these what is ``wanted``.

        Nothing else may be called until the caller is done with it.
        """
        for which in ("NOT NULL ORDER BY v.superseded_at", "NULL ORDER BY v.used_at"):
            found = self._db.execute(
                "SELECT v.id, t.repository, t.tag, v.digest, v.superseded_at, v.used_at,"
                " t.gone_since IS NOT NULL, t.own FROM versions v JOIN tags t ON t.id = v.tag"
                f" WHERE v.superseded_at IS {which}, v.id"
            )
            for number, repository, tag, digest, *rest in found:
                superseded_at, used_at, gone, own = rest
                name, outlined = Repository.parse(repository), Tag(tag)
                if not wanted(Outline(name, outlined, superseded_at, used_at, gone, own)):
                    continue
                blobs = self._db.execute(
                    "SELECT b.digest, b.size, b.needed, b.stored FROM needs n"
                    " JOIN blobs b ON b.id = n.blob WHERE n.version = ? ORDER BY b.id",
                    (number,),
                ).fetchall()
                yield Candidate(
                    Version(
                        name,
                        outlined,
                        digest_of(digest),
                        tuple(Need(digest_of(blob), size) for blob, size, _, _ in blobs),
                    ),
                    superseded_at,
                    used_at,
                    bool(gone),
                    bool(own),
                    tuple(needed for _, _, needed, _ in blobs),
                    tuple(bool(stored) for _, _, _, stored in blobs),
                )

    def totals(self) -> Totals:
        """Return how much is held, and for what."""
        tags, versions = self._db.execute(
            "SELECT count(*) FILTER (WHERE superseded_at IS NULL), count(*) FROM versions"
        ).fetchone()
        blobs, stored, shared, unneeded = self._db.execute(
            "SELECT count(*), total(size), total(CASE WHEN needed > 1 THEN size END),"
            " total(CASE WHEN needed = 0 THEN size END) FROM blobs WHERE stored"
        ).fetchone()
        (superseded,) = self._db.execute(
            "SELECT total(size) FROM blobs b WHERE stored AND id IN"
            " (SELECT blob FROM needs JOIN versions v ON v.id = version"
            " WHERE superseded_at IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM needs JOIN versions v ON v.id = version"
            " WHERE blob = b.id AND superseded_at IS NULL)"
        ).fetchone()
        return Totals(
            tags, versions, blobs, int(stored), int(shared), int(superseded), int(unneeded)
        )

    def is_needed(self, digest: Digest) -> bool:
        """Whether a version stands on a blob."""
        found = self._db.execute("SELECT needed FROM blobs WHERE digest = ?", (digest.raw,))
        return bool((found.fetchone() or (0,))[0])

    def unneeded(self) -> list[Digest]:
        """Return the blobs that are here and that no version stands on."""
        found = self._db.execute("SELECT digest FROM blobs WHERE needed = 0 AND stored")
        return [digest_of(each) for (each,) in found]

    def unneeded_bytes(self, but: Container[Digest]) -> int:
        """Return the bytes of the blobs that no version stands on, without some of them."""
        found = self._db.execute("SELECT digest, size FROM blobs WHERE needed = 0 AND stored")
        return sum(size for each, size in found if digest_of(each) not in but)

    def longest_unverified(
        self, place: str, among: Optional[Mapping[Digest, int]] = None
    ) -> Optional[Unverified]:
        """
        Return the stored blob whose copy in that place was verified longest ago, of all or of some,
        given with their sizes.

        Those that never were come first; None if there is none.
        """
        column, which = VERIFIED[place], "stored"
        if among is not None:
            which += " AND is_among(digest)"
            some = {each.raw for each in among}
            self._db.create_function("is_among", 1, some.__contains__)
        found = self._db.execute(
            f"SELECT digest, {column} FROM blobs WHERE {which} ORDER BY {column} LIMIT 1"
        ).fetchone()
        if found is None:
            return None
        if among is not None:
            total = sum(among.values())
        else:
            (total,) = self._db.execute("SELECT total(size) FROM blobs WHERE stored").fetchone()
        return Unverified(digest_of(found[0]), found[1], int(total))

    def standing_on(self, digest: Digest, most: int) -> list[tuple[Repository, Tag]]:
        """Return up to ``most`` tags that stand on a blob."""
        found = self._db.execute(
            "SELECT DISTINCT t.repository, t.tag FROM blobs b JOIN needs n ON n.blob = b.id"
            " JOIN versions v ON v.id = n.version JOIN tags t ON t.id = v.tag"
            " WHERE b.digest = ? ORDER BY v.superseded_at IS NOT NULL LIMIT ?",
            (digest.raw, most),
        )
        return [(Repository.parse(name), Tag(tag)) for name, tag in found]

    def traffic(self, since: int) -> list[tuple[int, int, int]]:
        """Return each hour, in seconds of the epoch, and the bytes sent and received in it."""
        return self._db.execute("SELECT * FROM traffic WHERE hour >= ?", (since,)).fetchall()

    def clients_of(self, day: int, most: int) -> list[tuple[str, int]]:
        """Return the clients of a day and the bytes that they got, those that got most first."""
        return self._db.execute(
            "SELECT client, sent FROM clients_today WHERE day = ? ORDER BY sent DESC LIMIT ?",
            (day, most),
        ).fetchall()

    def made_at(self) -> float:
        """When the catalog was made, in seconds of the epoch."""
        (found,) = self._db.execute("SELECT made_at FROM made").fetchone()
        return float(found)
