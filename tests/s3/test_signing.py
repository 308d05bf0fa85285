"""Replies of S3."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.session import Session
from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent

from tests.s3.against import Given
from tests.sources.doubles import Internet
from yukari.s3.client import S3Client
from yukari.s3.errors import S3Error
from yukari.s3.location import BucketPlace
from yukari.s3.signing import Signing, _timestamp

WRITTEN = ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%a, %d %b %Y %H:%M:%S GMT")
"""As in listings of AWS and Ceph, of others, and in headers."""
TIMES = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(timezone.utc))


class ReplyTests(SynchronousTestCase):
    def test_reply_with_an_unreadable_head_keeps_no_connection(self) -> None:
        """Each was kept with its body unread: four for every request, until none was left."""
        internet = Internet()
        agent = Agent.usingEndpointFactory(internet.clock, internet)
        place = BucketPlace("http://s3.test", "us-east-1", "bucket", True)
        credentials: Any = Given()
        client = S3Client(Signing(Session(), place), credentials, agent, internet.clock)
        asked = Deferred.fromCoroutine(client.get_object("k", once=True))
        internet.last.head(200, content_length=10**9, last_modified="yesterday")
        self.failureResultOf(asked, S3Error)
        internet.clock.advance(0)
        self.assertEqual(internet.open, [])


class TimestampTests(SynchronousTestCase):
    @given(TIMES, st.sampled_from(WRITTEN), st.integers(0, 6))
    def test_times_are_read_as_by_botocore(self, when: datetime, written: str, digits: int) -> None:
        text = when.strftime(written)
        if "." in text:
            text = f"{text[: text.index('.') + 1 + digits].rstrip('.')}Z"
        found = _timestamp(text)
        self.assertEqual(found, parse_timestamp(text))
        self.assertEqual(found.utcoffset(), timedelta(0))

    def test_texts_that_are_no_time_are_refused(self) -> None:
        for text in ("", "yesterday", "2026-13-01T00:00:00Z"):
            with self.assertRaises(ValueError):
                _timestamp(text)
