"""The small files that settings name, and what is said of those that cannot be used."""

from __future__ import annotations

from OpenSSL.crypto import FILETYPE_PEM, load_certificate
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.files import reason_of


class ReasonTests(SynchronousTestCase):
    def test_the_errors_of_openssl_are_said_in_words(self) -> None:
        """The log had ``[('PEM routines', '', 'no start line')]``."""
        try:
            load_certificate(FILETYPE_PEM, b"no certificate")
        except Exception as error:
            self.assertEqual(reason_of(error), "there is no key or certificate in PEM form")
        else:
            self.fail("it was loaded")

    def test_other_errors_have_one_line(self) -> None:
        self.assertEqual(reason_of(ValueError("two\n lines")), "two lines")
        self.assertEqual(reason_of(ValueError()), "ValueError")
