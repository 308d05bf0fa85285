"""A store's bucket and the directory in front of it, which all parts of the store share."""

from __future__ import annotations

import os

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from yukari.s3.client import S3Client
from yukari.storage.bucket.calls import Calls
from yukari.storage.bucket.health import Contact
from yukari.storage.bucket.lease import Lease
from yukari.threads import InThread


@define(eq=False, repr=False)
class Bucket:
    """A bucket, and the ``directory`` on this disk that is in front of it."""

    client: S3Client
    directory: str
    in_thread: InThread
    clock: IReactorTime
    calls: Calls = field(factory=Calls, init=False)
    """The calls to S3 that end with the store."""
    contact: Contact = field(init=False)
    lease: Lease = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.contact = Contact(self.client, self.clock)
        self.lease = Lease(self.client, self.clock)

    @property
    def made_in(self) -> str:
        """The directory in which files are made before they get their place."""
        return os.path.join(self.directory, "tmp")
