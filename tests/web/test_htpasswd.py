"""Users, their passwords, and the file that has them."""

from __future__ import annotations

import os
from typing import Any, Optional

import bcrypt
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fills.doubles import ScriptedDisk
from yukari.errors import RegistryError
from yukari.web.htpasswd import FREE_GUESSES, REMEMBERED, Passwords, parse


def hashed(password: bytes) -> bytes:
    return bcrypt.hashpw(password, bcrypt.gensalt(4))


HERS = hashed(b"secret")
HIS = b"$2y$" + hashed(b"p:w\xff")[4:]


class ParseTests(SynchronousTestCase):
    def test_a_file_has_comments_and_any_line_ends(self) -> None:
        text = b"# admins\r\n\r\nher:" + HERS + b"\r\n  he@example:" + HIS
        self.assertEqual(parse(text), {b"her": HERS, b"he@example": HIS})

    def test_error_names_the_line_and_does_not_repeat_it(self) -> None:
        good = b"her:" + HERS + b"\n"
        for line in (
            b"he:plaintext",
            b"he:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
            b"he:$apr1$salt$abcdefghijklmnopqrstuv",
            b"he:" + HIS[:-1],
            b"he:" + HIS + b":x",
            b"he",
            b":" + HIS,
            b"he:" + HIS.replace(b"$04$", b"$31$"),
            b"he:" + HIS[:28] + b"z" + HIS[29:],
        ):
            error = self.assertRaises(ValueError, parse, good + line)
            self.assertTrue(str(error).startswith("line 2: expected USER:HASH"), error)
            self.assertNotIn(line.partition(b":")[2].decode()[:8] or "he", str(error))
        self.assertEqual(
            str(self.assertRaises(ValueError, parse, good + good)),
            "line 2: this user is there twice",
        )
        for empty in (b"", b"\n# nobody\n"):
            self.assertRaises(ValueError, parse, empty)

    @given(st.binary() | st.text("a:$2yb01/.\n").map(str.encode))
    def test_any_bytes_are_users_or_a_wrong_file(self, text: bytes) -> None:
        try:
            self.assertTrue(parse(text))
        except ValueError:
            pass


class PasswordsCase(SynchronousTestCase):
    """A file of two users."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        self.write(b"her:" + HERS + b"\nhe:" + HIS)
        self.clock = Clock()
        self.checks = 0

        def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
            self.checks += 1
            return ScriptedDisk()(work, *arguments)

        self.passwords = Passwords(self.path, in_thread, self.clock)

    def write(self, text: bytes) -> None:
        with open(self.path, "wb") as file:
            file.write(text)

    def accepts(self, user: bytes, password: bytes) -> bool:
        accepting = Deferred.fromCoroutine(self.passwords.accept(user, password))
        accepted: bool = self.successResultOf(accepting)
        return accepted


class PasswordsTests(PasswordsCase):
    def test_only_the_users_own_password_is_accepted(self) -> None:
        self.assertTrue(self.accepts(b"her", b"secret"))
        self.assertTrue(self.accepts(b"he", b"p:w\xff"))
        for user, password in (
            (b"her", b"p:w\xff"),
            (b"her", b"Secret"),
            (b"her", b""),
            (b"her", b"secret\0"),
            (b"her", b"x" * 1000),
            (b"nobody", b"secret"),
            (b"", b""),
            (b"her:secret", b""),
        ):
            self.assertFalse(self.accepts(user, password), (user, password))

    def test_only_the_first_72_bytes_of_a_password_count(self) -> None:
        self.write(b"her:" + hashed(b"x" * 72))
        self.passwords.load()
        self.assertTrue(self.accepts(b"her", b"x" * 80))
        self.assertFalse(self.accepts(b"her", b"x" * 71))

    def test_only_correct_passwords_are_remembered_for_a_while(self) -> None:
        for _ in range(3):
            self.assertTrue(self.accepts(b"her", b"secret"))
        self.assertEqual(self.checks, 1)
        for at in range(3):
            self.assertFalse(self.accepts(b"her", b"guess"))
            self.assertEqual(self.checks, 2 + at)
        self.assertTrue(self.accepts(b"her", b"secret"))
        self.assertEqual(self.checks, 4)
        self.clock.advance(REMEMBERED)
        self.assertTrue(self.accepts(b"her", b"secret"))
        self.assertEqual(self.checks, 5)

    def test_an_unknown_user_costs_a_check_too(self) -> None:
        self.accepts(b"nobody", b"secret")
        self.assertEqual(self.checks, 1)

    def test_a_reloaded_file_counts_at_once(self) -> None:
        self.assertTrue(self.accepts(b"her", b"secret"))
        self.write(b"her:" + hashed(b"another"))
        self.passwords.load()
        self.assertFalse(self.accepts(b"her", b"secret"))
        self.assertTrue(self.accepts(b"her", b"another"))

    def test_a_broken_file_changes_nothing(self) -> None:
        self.write(b"her:secret")
        self.assertRaises(ValueError, self.passwords.load)
        os.unlink(self.path)
        self.assertRaises(OSError, self.passwords.load)
        self.assertTrue(self.accepts(b"her", b"secret"))

    def test_a_client_that_leaves_frees_no_second_thread(self) -> None:
        threads: list[Deferred[bool]] = []

        def in_thread(work: Any, *arguments: Any) -> Deferred[bool]:
            threads.append(Deferred())
            return threads[-1]

        self.passwords = Passwords(self.path, in_thread, self.clock)
        guesses = [
            Deferred.fromCoroutine(self.passwords.accept(b"her", b"guess")) for _ in range(3)
        ]
        for guess in guesses[:2]:
            guess.cancel()
            self.failureResultOf(guess, CancelledError)
        self.assertEqual(len(threads), 1)
        threads[0].callback(False)
        self.assertEqual(len(threads), 2)
        threads[1].errback(OSError("the daemon is stopping"))
        self.failureResultOf(guesses[2], OSError)
        last = Deferred.fromCoroutine(self.passwords.accept(b"her", b"secret"))
        threads[2].callback(True)
        self.assertTrue(self.successResultOf(last))

    def test_a_check_against_an_older_file_does_not_count(self) -> None:
        waiting: list[Deferred[bool]] = []

        def in_thread(work: Any, *arguments: Any) -> Deferred[bool]:
            waiting.append(Deferred())
            return waiting[-1]

        self.passwords = Passwords(self.path, in_thread, self.clock)
        accepting = Deferred.fromCoroutine(self.passwords.accept(b"her", b"secret"))
        self.passwords.load()
        waiting[0].callback(True)
        self.assertTrue(self.successResultOf(accepting), "it is the same file")
        self.clock.advance(REMEMBERED)
        accepting = Deferred.fromCoroutine(self.passwords.accept(b"her", b"secret"))
        self.write(b"her:" + hashed(b"another"))
        self.passwords.load()
        waiting[1].callback(True)
        self.assertFalse(self.successResultOf(accepting))


class GuessingTests(PasswordsCase):
    """Guessing is slowed, and time tells nothing of who there is."""

    def refused(self, user: bytes, password: bytes, address: str) -> Optional[int]:
        """The seconds that an address has to wait; None if the password was checked."""
        trying = Deferred.fromCoroutine(self.passwords.accept(user, password, address))
        result: Any = None
        trying.addErrback(lambda failure: failure.value)
        result = self.successResultOf(trying)
        return result.retry_after if isinstance(result, RegistryError) else None

    def test_an_address_that_guesses_waits_longer_each_time(self) -> None:
        for _ in range(FREE_GUESSES):
            self.assertIsNone(self.refused(b"her", b"guess", "192.0.2.1"))
        waits = []
        for _ in range(8):
            wait = self.refused(b"her", b"guess", "192.0.2.1")
            assert wait is not None
            waits.append(wait)
            self.assertEqual(self.refused(b"her", b"secret", "192.0.2.1"), wait)
            self.clock.advance(wait)
            self.assertIsNone(self.refused(b"nobody", b"guess", "192.0.2.1"))
        self.assertEqual(waits, [1, 2, 4, 8, 16, 32, 60, 60])

    def test_others_do_not_wait_and_a_right_password_ends_it(self) -> None:
        for _ in range(FREE_GUESSES):
            self.refused(b"her", b"guess", "192.0.2.1")
        self.assertIsNone(self.refused(b"her", b"secret", "192.0.2.2"))
        self.clock.advance(1)
        self.assertIsNone(self.refused(b"he", b"p:w\xff", "192.0.2.1"))
        for _ in range(FREE_GUESSES - 1):
            self.assertIsNone(self.refused(b"her", b"guess", "192.0.2.1"))

    def test_guesses_all_at_once_are_no_way_around_it(self) -> None:
        tries = [
            Deferred.fromCoroutine(self.passwords.accept(b"her", b"guess", "192.0.2.1"))
            for _ in range(50)
        ]
        self.assertEqual(self.checks, FREE_GUESSES)
        for each in tries:
            each.addErrback(lambda _: None)

    def test_crowd_that_guesses_locks_out_no_admin(self) -> None:
        """Refused one from within another, they filled Python's stack, and nobody came in again."""
        disk = ScriptedDisk(slow=True)
        self.passwords._in_thread = disk
        tries = [
            Deferred.fromCoroutine(self.passwords.accept(b"her", b"guess", "192.0.2.1"))
            for _ in range(300)
        ]
        admin = Deferred.fromCoroutine(self.passwords.accept(b"her", b"secret", "192.0.2.2"))
        while disk.waiting or self.clock.getDelayedCalls():
            disk.work()
            self.clock.advance(0)
        self.assertIs(self.successResultOf(admin), True)
        for each in tries[:FREE_GUESSES]:
            self.assertIs(self.successResultOf(each), False)
        for each in tries[FREE_GUESSES:]:
            self.failureResultOf(each, RegistryError)

    def test_whatever_a_hash_costs_each_check_does_as_much_work(self) -> None:
        """The time of a reply told a known user, whose hash costs more or less than another's."""
        work: list[int] = []

        def checkpw(password: bytes, hashed: bytes) -> bool:
            work[-1] += 2 ** int(hashed[4:6])
            return False

        self.patch(bcrypt, "checkpw", checkpw)
        costs = {b"low": 4, b"middle": 6, b"high": 9}
        salt = b"." * 22 + b"." * 31
        self.write(b"".join(b"%b:$2b$%02d$%b\n" % (name, costs[name], salt) for name in costs))
        self.passwords.load()
        for user in (*costs, b"nobody"):
            work.append(0)
            self.assertFalse(self.accepts(user, b"guess"))
        self.assertEqual(set(work), {2**9})
