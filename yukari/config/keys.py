"""
What registries know their clients by, in files: ed25519 keys as OpenSSH has them, for Ollama's own,
and tokens, for such as Hugging Face.
"""

from __future__ import annotations

import re
from base64 import b64encode

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from yukari.config.files import absolute_path, expecting, read_file
from yukari.config.setting import InvalidSetting

MAX_KEY = 64 * 1024
"""Bytes of a key's file at most; an ed25519 key has some 400."""
MAX_TOKEN = 16 * 1024
"""Bytes of a token's file at most: what is sent has to fit into one header."""
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]+")
"""The characters of a Bearer token (RFC 6750, section 2.1)."""


@frozen
class SigningKey:
    """A private key. It shows its public half only."""

    public: str
    """The base64 field of the OpenSSH public key line."""
    _private: Ed25519PrivateKey = field(eq=False, repr=False)

    @classmethod
    def of(cls, private: Ed25519PrivateKey) -> SigningKey:
        line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return cls(line.split()[1].decode("ascii"), private)

    @classmethod
    def read(cls, path: str) -> SigningKey:
        """Read the key in a file; `OSError` or `ValueError`."""
        try:
            private = load_ssh_private_key(read_file(path, MAX_KEY), None)
        except TypeError:
            raise ValueError("expected a key without a passphrase") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            if str(error).startswith("expected"):
                raise
            raise ValueError("expected an ed25519 private key as ssh-keygen writes it") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("expected an ed25519 private key, this is one of another kind")
        return cls.of(private)

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read the key in the file at this path; ValueError says what is wrong with it."""
        with expecting("a private key's file"):
            return cls.read(absolute_path(text))

    @classmethod
    def make(cls) -> tuple[SigningKey, bytes]:
        """Make a new key and the text of its file."""
        private = Ed25519PrivateKey.generate()
        text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        return cls.of(private), text

    def sign(self, message: bytes) -> str:
        """Return ``PUBLIC:SIGNATURE``, the value of Ollama's Authorization header."""
        return f"{self.public}:{b64encode(self._private.sign(message)).decode('ascii')}"


@frozen
class BearerToken:
    """A token, which it does not show, and the path of the file that it was read from."""

    path: str
    value: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> BearerToken:
        """Read the token in the file at this path; `ValueError` says what is wrong with it."""
        path = absolute_path(text)
        with expecting("a token's file"):
            content = read_file(path, MAX_TOKEN).strip()
        if not _TOKEN.fullmatch(content):
            raise InvalidSetting("expected a file that has a token, on one line, and nothing else")
        return cls(path, content.decode("ascii"))
