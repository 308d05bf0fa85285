"""Where models are stored, how many, and which go first."""

from __future__ import annotations

from attrs import frozen

from yukari.config.parsers import (
    one_of,
    parse_bucket,
    parse_directory,
    parse_endpoint,
    parse_spool_max,
    parse_storage,
    parse_store_max,
    parse_switch,
)
from yukari.config.patterns import Patterns
from yukari.config.setting import declare
from yukari.config.units import FreeSpace, parse_duration


@frozen(slots=False)
class Storage:
    """Where models are stored, how many, and which go first."""

    storage: str = declare(
        parse_storage,
        None,
        "Where to store models: a directory, or ``tigris`` for a bucket of Tigris or any S3.",
        default_shown="$XDG_CACHE_HOME/yukari, else ~/.cache/yukari; tigris if TIGRIS_BUCKET is"
        " set",
        example="/srv/models",
    )
    """The absolute path of a directory, or `yukari.config.parsers.TIGRIS`."""
    tigris_bucket: str = declare(
        parse_bucket,
        "yukari",
        "The bucket that models are stored in with ``--storage=tigris``.",
    )
    redirect: str = declare(
        one_of("auto", "on", "off"),
        "auto",
        "With ``tigris``, whether clients get blobs that are not on this disk from S3 itself:"
        " ``auto`` (if its endpoint is public), ``on`` or ``off``.",
    )
    """``auto``, ``on`` or ``off``."""
    presign_endpoint: str | None = declare(
        parse_endpoint,
        None,
        "The S3 endpoint as clients reach it, an http or https URL.",
        default_shown="the one that this cache uses",
        example="https://s3.example.com/",
    )
    """A URL without a path; None for the endpoint that we use."""
    spool_dir: str | None = declare(
        parse_directory,
        None,
        "The directory of blobs that are still being fetched.",
        details="On another file system than the store's, every blob is copied once when it is"
        " complete.",
        default_shown="inside the store's directory; with tigris, yukari/spool in the cache home",
        example="/srv/spool",
    )
    """An absolute path; None for inside the store's directory, never None with `TIGRIS`."""
    spool_max: int | None = declare(
        parse_spool_max,
        None,
        "With ``tigris``, the most bytes of blobs on this disk, such as ``500GB`` or ``500GiB``;"
        " the least recently read are dropped first.",
        default_shown="what MIN_FREE leaves",
        example="500GB",
    )
    """Bytes; None for what `min_free` leaves."""
    min_free: FreeSpace = declare(
        FreeSpace.parse,
        "5%",
        "Free space on the disk that storing never goes under: a percentage, or bytes such as"
        " ``10GB`` or ``10GiB``.",
    )
    store_max: FreeSpace | None = declare(
        parse_store_max,
        None,
        "The most bytes of models that are stored, such as ``500GB``, or a percentage of the disk.",
        details="When something new needs room, what was superseded goes first, then the models"
        " that were pulled least recently (``EVICT``). Of a bucket it is a number of bytes, which"
        " all daemons that share it have in common.",
        default_shown="what MIN_FREE leaves",
        example="2TB",
    )
    evict: str | None = declare(
        one_of("lru", "never"),
        None,
        "What goes when something new needs room: ``lru`` (the models that were pulled least"
        " recently) or ``never`` (nothing).",
        details="What is pinned, in use, matches ``KEEP`` or is gone upstream never goes; nor does"
        " anything while upstream does not answer, or with ``OFFLINE``. What then has no room is"
        " passed on to clients without being stored.",
        default_shown="lru; never with tigris",
        example="lru",
    )
    keep: Patterns | None = declare(
        Patterns.parse,
        None,
        "Models that are never evicted, as patterns such as ``library/llama3.2,*/*-embed*``.",
        default_shown="none",
        commas=True,
        example="library/llama3.2,*/*-embed*",
    )
    superseded_lifetime: float = declare(
        parse_duration,
        "720h",
        "How long a version that upstream has replaced is kept, a duration; it goes sooner if room"
        " is needed.",
    )
    evict_grace: float = declare(
        parse_duration,
        "1h",
        "Models that were pulled within this duration are not evicted, and blobs that were stored"
        " within it are not removed.",
    )
    scrub_period: float = declare(
        parse_duration,
        "720h",
        "Each blob on the disk is read once in this duration to see whether its bytes are still"
        " right; 0 for never.",
        details="It reads slowly, and more slowly while blobs are fetched or sent. A wrong blob is"
        " fetched again, or no longer served if upstream does not have it.",
    )
    """Seconds; 0 for never."""
    scrub_bucket: bool = declare(
        parse_switch,
        "0",
        "With ``tigris``, read the blobs in the bucket in the same way: all of it crosses the line"
        " to S3 once in ``SCRUB_PERIOD``, for each daemon that has this set.",
        details="The flag takes no value; the variable takes ``1`` or ``0``.",
        default_shown="off",
        switch=True,
    )
