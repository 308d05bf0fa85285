"""This cache's own key: made once, kept private, never written over."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.keys import SigningKey
from yukari.sources import own_key
from yukari.sources.own_key import FOUND_WITHIN, KeyUnusable, OwnKey


class OwnKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = os.path.join(os.path.abspath(self.mktemp()), "yukari", "id_ed25519")

    def found(self) -> SigningKey:
        """As a daemon that has just started finds it."""
        return self.successResultOf(
            Deferred.fromCoroutine(OwnKey(self.path, execute, Clock()).get())
        )  # type: ignore[no-any-return]

    def put(self, text: bytes) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "wb") as file:
            file.write(text)

    def assert_unusable(self) -> str:
        key = OwnKey(self.path, execute, Clock())
        with capturedLogs() as events:
            for _ in range(3):
                error = self.failureResultOf(Deferred.fromCoroutine(key.get()), KeyUnusable)
        self.assertNotIn(self.path, str(error.value))
        self.assertEqual(len(events), 1)
        self.assertEqual(events[0]["path"], self.path)
        return str(events[0]["reason"])

    def test_it_is_made_at_first_need_and_found_again(self) -> None:
        first = self.found()
        self.assertEqual(self.found(), first)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["id_ed25519"])

    def test_it_is_private_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.found()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_what_a_process_left_that_died_while_it_made_one_is_no_hindrance(self) -> None:
        self.put(b"")
        os.rename(self.path, f"{self.path}.new")
        self.found()
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["id_ed25519"])

    def test_something_else_in_its_place_stays_as_it_is(self) -> None:
        for text in (b"", b"not a key", SigningKey.make()[1][:-100]):
            self.put(text)
            self.assertIn("expected an ed25519 private key", self.assert_unusable())
            with open(self.path, "rb") as file:
                self.assertEqual(file.read(), text)

    def test_a_dangling_link_in_its_place_stays(self) -> None:
        os.makedirs(os.path.dirname(self.path))
        os.symlink("nowhere", self.path)
        self.assertEqual(self.assert_unusable(), "No such file or directory")
        self.assertEqual(os.readlink(self.path), "nowhere")

    def test_a_directory_in_its_place_stays(self) -> None:
        os.makedirs(self.path)
        self.assertIn("a directory", self.assert_unusable())

    def test_a_place_that_cannot_be_made_is_said(self) -> None:
        with open(os.path.dirname(os.path.dirname(self.path)), "wb"):
            pass
        self.assertEqual(self.assert_unusable(), "Not a directory")

    def test_if_it_is_another_users_this_run_has_a_key_of_its_own(self) -> None:
        def refused(path: str) -> SigningKey:
            raise PermissionError(errno.EACCES, "Permission denied", path)

        self.patch(own_key, "read_or_make", refused)
        key = OwnKey(self.path, execute, Clock())
        with capturedLogs() as events:
            found = [self.successResultOf(Deferred.fromCoroutine(key.get())) for _ in range(3)]
        self.assertEqual(found, found[:1] * 3)
        self.assertEqual(len(events), 1)

    def test_a_disk_that_does_not_answer_is_given_up_and_asked_once(self) -> None:
        clock, asked = Clock(), []

        def hangs(*work: object) -> Deferred[Any]:
            asked.append(work)
            return Deferred()

        key = OwnKey(self.path, hangs, clock)
        for _ in range(3):
            found = Deferred.fromCoroutine(key.get())
            clock.advance(FOUND_WITHIN)
            self.failureResultOf(found, KeyUnusable)
        self.assertEqual(len(asked), 1)

    def test_without_hard_links_it_is_made_as_well(self) -> None:
        def no_links(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", no_links)
        self.assertEqual(self.found(), self.found())

    def test_where_it_was_put_meanwhile_the_other_one_is_used(self) -> None:
        others, text = SigningKey.make()
        link = os.link

        def later(made: str, path: str) -> None:
            self.put(text)
            link(made, path)

        self.patch(os, "link", later)
        self.assertEqual(self.found(), others)
