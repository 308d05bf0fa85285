"""The catalog's tables, and how its file is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

VERSION = 7
"""The schema's version; a file of another version is made anew."""
LOCKED_FOR = 2.0
"""Seconds to wait for another program, such as a backup, that has locked the file."""
STILL_LOCKED_FOR = 0.05
"""
The same after such a wait was in vain, until the file can be used again. If a file system's locks
fail, SQLite reports only that the file is locked: each call would wait that long, even at the stop.
"""

_SCHEMA = """
CREATE TABLE made (made_at REAL NOT NULL);
INSERT INTO made VALUES ((julianday('now') - 2440587.5) * 86400.0);
CREATE TABLE tags (
    id INTEGER PRIMARY KEY,
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    checked_at REAL NOT NULL DEFAULT 0,
    listed_at REAL,
    gone_since REAL,
    first_pull REAL,
    last_pull REAL,
    pulls INTEGER NOT NULL DEFAULT 0,
    clients INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    own INTEGER NOT NULL DEFAULT 0,
    seen INTEGER NOT NULL DEFAULT 0,
    UNIQUE (repository, tag)
);
CREATE TABLE versions (
    id INTEGER PRIMARY KEY,
    tag INTEGER NOT NULL REFERENCES tags (id),
    digest BLOB NOT NULL,
    stored_at REAL NOT NULL,
    used_at REAL NOT NULL,
    superseded_at REAL,
    size INTEGER NOT NULL DEFAULT 0,
    missing INTEGER NOT NULL DEFAULT 0,
    details TEXT NOT NULL,
    words TEXT NOT NULL DEFAULT '',
    UNIQUE (tag, digest)
);
CREATE INDEX pulled ON tags (last_pull DESC, repository, tag);
CREATE INDEX words ON versions (words) WHERE superseded_at IS NULL;
CREATE INDEX by_size ON versions (size DESC) WHERE superseded_at IS NULL;
CREATE UNIQUE INDEX current ON versions (tag) WHERE superseded_at IS NULL;
CREATE INDEX used ON versions (used_at) WHERE superseded_at IS NULL;
CREATE INDEX superseded ON versions (superseded_at) WHERE superseded_at IS NOT NULL;
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    needed INTEGER NOT NULL DEFAULT 0,
    seen INTEGER NOT NULL DEFAULT 0,
    manifest INTEGER NOT NULL DEFAULT 0,
    disk_verified REAL,
    bucket_verified REAL
);
CREATE INDEX disk_verified ON blobs (disk_verified) WHERE stored;
CREATE INDEX bucket_verified ON blobs (bucket_verified) WHERE stored;
CREATE INDEX unneeded ON blobs (id) WHERE needed = 0;
CREATE TABLE needs (
    version INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    PRIMARY KEY (version, blob)
) WITHOUT ROWID;
CREATE INDEX needs_of_blob ON needs (blob);
CREATE TRIGGER need AFTER INSERT ON needs BEGIN
    UPDATE blobs SET needed = needed + 1 WHERE id = new.blob;
    UPDATE versions SET size = versions.size + b.size, missing = missing + NOT b.stored
        FROM blobs b WHERE b.id = new.blob AND versions.id = new.version;
END;
CREATE TRIGGER need_no_more AFTER DELETE ON needs BEGIN
    UPDATE blobs SET needed = needed - 1 WHERE id = old.blob;
    UPDATE versions SET size = versions.size - b.size, missing = missing - NOT b.stored
        FROM blobs b WHERE b.id = old.blob AND versions.id = old.version;
END;
CREATE TRIGGER blob_came_or_went AFTER UPDATE OF stored ON blobs
WHEN old.stored != new.stored BEGIN
    UPDATE versions SET missing = missing + old.stored - new.stored
        WHERE id IN (SELECT version FROM needs WHERE blob = new.id);
END;
CREATE TRIGGER size_is_another AFTER UPDATE OF size ON blobs WHEN old.size != new.size BEGIN
    UPDATE versions SET size = size + new.size - old.size
        WHERE id IN (SELECT version FROM needs WHERE blob = new.id);
END;
CREATE TABLE traffic (
    hour INTEGER PRIMARY KEY,
    sent INTEGER NOT NULL,
    received INTEGER NOT NULL
);
CREATE TABLE place (place TEXT NOT NULL);
CREATE TABLE clients_today (
    client TEXT PRIMARY KEY,
    day INTEGER NOT NULL,
    sent INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE roots (
    key TEXT PRIMARY KEY,
    repository TEXT NOT NULL,
    version TEXT NOT NULL,
    manifest BLOB NOT NULL,
    modified REAL NOT NULL,
    is_tag INTEGER NOT NULL,
    seen INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX roots_of ON roots (manifest);
CREATE INDEX roots_in ON roots (repository);
CREATE TABLE stands_on (
    manifest BLOB NOT NULL,
    blob BLOB NOT NULL,
    PRIMARY KEY (manifest, blob)
) WITHOUT ROWID;
CREATE INDEX stood_on ON stands_on (blob);
CREATE TABLE clients (
    tag INTEGER NOT NULL,
    client TEXT NOT NULL,
    PRIMARY KEY (tag, client)
) WITHOUT ROWID;
"""


def open_database(path: str) -> tuple[sqlite3.Connection, bool]:
    """
    Open the file, or make it anew if it is missing, not readable, of another version or another
    user's.

    Return also whether it was made anew; `is_sound` looks at the rest of it. OSError,
    `sqlite3.Error` if it is locked, or cannot be made.
    """
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return make_database(path), True
    db = None
    try:
        db = _connect(path)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return db, False
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise  # By another program, or the file system has no locks: it is not damaged.
    if db is not None:
        db.close()
    return make_database(path), True


def is_sound(path: str) -> bool:
    """
    Whether no part of a file is damaged, as far as that can be told: 0.1 s for 100,000 tags.

    It is opened anew, so that others may use it meanwhile.
    """
    try:
        uri = f"{Path(path).absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, STILL_LOCKED_FOR, uri=True)) as db:
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            return bool(state == "ok")
    except sqlite3.OperationalError:
        # It is gone, locked or not readable now, which says nothing of its content.
        return True
    except sqlite3.DatabaseError:
        return False


def make_database(path: str) -> sqlite3.Connection:
    """Make the file anew, whatever it was."""
    if path != ":memory:":
        for each in (path, path + "-wal", path + "-shm"):
            try:
                os.unlink(each)
            except FileNotFoundError:
                pass
        # SQLite would make it unwritable to a group, whatever the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    db = _connect(path)
    db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    return db


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction, which waits at its beginning until it may write."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, LOCKED_FOR, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    # What a power cut loses is read again from the files.
    db.execute("PRAGMA synchronous = NORMAL")
    return db
