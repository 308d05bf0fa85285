"""Keys in files: which are taken, and that nothing shows the private half."""

from __future__ import annotations

import os
from base64 import b64decode

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)
from twisted.trial.unittest import SynchronousTestCase

from yukari.config.keys import SigningKey


class KeyTests(SynchronousTestCase):
    def kept(self, text: bytes) -> str:
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(text)
        return path

    def test_a_signature_is_the_public_key_and_what_it_verifies(self) -> None:
        made, text = SigningKey.make()
        key = SigningKey.read(self.kept(text))
        self.assertEqual(key, made)
        public, _, signature = key.sign(b"GET,x").partition(":")
        loaded = load_ssh_public_key(f"ssh-ed25519 {public}".encode())
        loaded.verify(b64decode(signature, validate=True), b"GET,x")  # type: ignore[union-attr,call-arg]

    def test_the_private_half_is_in_no_repr(self) -> None:
        made, text = SigningKey.make()
        shown = f"{made!r} {made}"
        for line in text.decode().splitlines():
            self.assertNotIn(line, shown)
        self.assertNotIn("Private", shown)

    def test_an_unusable_key_is_a_one_line_error_without_its_contents(self) -> None:
        def written(key: object, encryption: object, form: object = PrivateFormat.OpenSSH) -> bytes:
            return key.private_bytes(Encoding.PEM, form, encryption)  # type: ignore[attr-defined,no-any-return]

        ed25519 = Ed25519PrivateKey.generate()
        whole = written(ed25519, NoEncryption())
        for text, said in (
            (written(generate_private_key(SECP256R1()), NoEncryption()), "of another kind"),
            (written(ed25519, NoEncryption(), PrivateFormat.PKCS8), "as ssh-keygen writes it"),
            (whole[:-80], "as ssh-keygen writes it"),
            (whole.replace(b"OPENSSH", b"RSA"), "as ssh-keygen writes it"),
            (b"", "as ssh-keygen writes it"),
            (b"secret\0\xff" * 100, "as ssh-keygen writes it"),
            (b"x" * 100_000, "at most"),
        ):
            with self.assertRaises(ValueError) as caught:
                SigningKey.parse(self.kept(text))
            self.assertIn(said, str(caught.exception))
            self.assertTrue(str(caught.exception).startswith("expected "), caught.exception)
            self.assertNotIn("secret", str(caught.exception))

    def test_error_names_the_passphrase(self) -> None:
        try:
            text = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"x")
            )
        except Exception:
            raise self.skipTest("bcrypt is needed to write one") from None  # type: ignore[func-returns-value]
        with self.assertRaises(ValueError) as caught:
            SigningKey.parse(self.kept(text))
        self.assertEqual(str(caught.exception), "expected a key without a passphrase")

    def test_a_missing_file_is_an_error(self) -> None:
        with self.assertRaises(ValueError) as caught:
            SigningKey.parse("/nowhere/key")
        self.assertIn("No such file", str(caught.exception))
