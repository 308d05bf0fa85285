"""Replies of S3."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from botocore.utils import parse_timestamp
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from yukari.s3.signing import _timestamp

WRITTEN = ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%a, %d %b %Y %H:%M:%S GMT")
"""As in listings of AWS and Ceph, of others, and in headers."""
TIMES = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(timezone.utc))


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
