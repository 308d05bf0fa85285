"""The keys that requests are signed with, without any server."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.credentials import Credentials as StaticCredentials
from botocore.credentials import RefreshableCredentials
from botocore.session import Session
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from tests.storage.strategies import result_of
from yukari.s3 import credentials
from yukari.s3.connect import open_bucket
from yukari.s3.credentials import Credentials
from yukari.s3.errors import NO_CREDENTIALS, S3Error
from yukari.s3.location import InvalidPlace


class Chain:
    """A session whose chain ends with ``found``."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.walked = 0

    def get_credentials(self) -> Any:
        self.walked += 1
        return self.found


def of(found: Any, in_thread: Any = maybeDeferred) -> Credentials:
    chain: Any = Chain(found)
    return Credentials(chain, in_thread)


class CredentialsTests(SynchronousTestCase):
    def test_keys_without_expiry_are_looked_up_once(self) -> None:
        looked = of(StaticCredentials("a", "s"))
        for _ in range(3):
            keys = result_of(looked.keys())
        self.assertEqual((keys.access, keys.secret, keys.token, keys.left), ("a", "s", None, None))
        self.assertEqual(looked._session.walked, 1)
        self.assertNotIn("'s'", repr(keys))

    def test_a_token_with_unknown_expiry_signs_no_urls(self) -> None:
        left = result_of(of(StaticCredentials("a", "s", "t")).keys()).left
        assert left is not None
        self.assertLessEqual(left, 0.0)

    def test_expiring_keys_are_renewed_in_the_thread(self) -> None:
        renewed = []

        def renew() -> dict[str, str]:
            renewed.append(1)
            ends = datetime.now(timezone.utc) + timedelta(hours=6)
            return {
                "access_key": f"a{len(renewed)}",
                "secret_key": "s",
                "token": "t",
                "expiry_time": ends.isoformat(),
            }

        soon = datetime.now(timezone.utc) + timedelta(seconds=30)
        looked = of(RefreshableCredentials("a0", "s", "t", soon, renew, "test"))
        keys = result_of(looked.keys())
        self.assertEqual((keys.access, len(renewed)), ("a1", 1))
        assert keys.left is not None
        self.assertTrue(5 * 3600 < keys.left <= 6 * 3600)
        self.patch(credentials, "LOOKED_AT_EVERY", -1.0)
        self.assertEqual(result_of(looked.keys()).access, "a1")

    def test_missing_credentials_are_an_error_that_names_the_variables(self) -> None:
        with self.assertRaises(S3Error) as caught:
            result_of(of(None).keys())
        self.assertEqual(caught.exception.code, NO_CREDENTIALS)
        self.assertTrue(caught.exception.wrong_setting)
        self.assertIn("AWS_ACCESS_KEY_ID", str(caught.exception))

    def test_concurrent_callers_share_one_look(self) -> None:
        work: list[Any] = []
        held: Deferred[Any] = Deferred()

        def in_thread(look: Any) -> Deferred[Any]:
            work.append(look)
            return held

        looked = of(StaticCredentials("a", "s"), in_thread)
        both = [Deferred.fromCoroutine(looked.keys()) for _ in range(2)]
        held.callback(work[0]())
        keys = [self.successResultOf(each).access for each in both]
        self.assertEqual((keys, len(work)), (["a", "a"], 1))

    def test_the_environment_is_in_the_chain(self) -> None:
        self.patch(os, "environ", {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "f"})
        keys = result_of(Credentials(Session(), maybeDeferred).keys())
        self.assertEqual((keys.access, keys.secret), ("e", "f"))


class OpeningTests(SynchronousTestCase):
    def opened(self, environment: dict[str, str], **keywords: Any) -> Any:
        from twisted.internet import reactor

        return open_bucket(reactor, "models", environment, maybeDeferred, **keywords)

    def test_presigned_urls_use_the_presign_endpoint(self) -> None:
        ours = {"AWS_ENDPOINT_URL_S3": "http://minio:9000"}
        opened = self.opened(ours, presign_endpoint="https://s3.example.com")
        self.assertEqual(opened.client.describe(), "http://minio:9000/models")
        self.assertEqual(opened.seen.place.endpoint, "https://s3.example.com")
        keys = credentials.AccessKeys("a", "s", None, None)
        url = opened.seen.presign(keys, "blobs/sha256:ab", 3600)
        self.assertTrue(url.startswith("https://models.s3.example.com/blobs/sha256%3Aab?"))

    def test_error_names_an_unusable_ca_bundle(self) -> None:
        path = self.mktemp()
        for content in (None, b"nothing", b"-----BEGIN CERTIFICATE-----\nxx\n"):
            if content is not None:
                with open(path, "wb") as file:
                    file.write(content)
            with self.assertRaises(InvalidPlace) as caught:
                self.opened({"AWS_CA_BUNDLE": path})
            self.assertIn("AWS_CA_BUNDLE", str(caught.exception))

    def test_an_empty_ca_bundle_counts_as_unset(self) -> None:
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            for blank in ("", " "):
                self.patch(os, "environ", {**os.environ, name: blank})
                opened = self.opened({name: blank})
                # The session is what asks for web identities' keys, too.
                sts = opened.seen._session.create_client("sts", region_name="us-east-1")
                self.assertIs(sts._endpoint.http_session._verify, True)

    def test_making_a_client_takes_no_network(self) -> None:
        asked: list[Any] = []
        for what, name in (
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (socket, "getaddrinfo"),
        ):
            self.patch(what, name, lambda *given: asked.append(given))
        self.opened({})
        self.assertEqual(asked, [])
