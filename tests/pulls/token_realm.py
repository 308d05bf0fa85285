"""A realm of the OCI kind: gives everybody a token to pull, as ``docker-registry`` takes it."""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64encode
from secrets import token_hex
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from twisted.web.resource import Resource
from twisted.web.server import Request

from tests.authority import self_signed

ISSUER = SERVICE = "tests"


def _part(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")


class TokenRealm(Resource):
    """
    Gives tokens that name their scope, signed by a key whose certificate is ``certificate`` (PEM);
    whoever brings an Authorization is told that it is a wrong password.

    ``asked`` are the scopes that tokens were given for.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        text, self.certificate = self_signed("127.0.0.1")
        key = load_pem_private_key(text, None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key
        self.asked: list[str] = []

    def render_GET(self, request: Request) -> bytes:
        if request.getHeader("authorization"):
            request.setResponseCode(401)
            request.setHeader("WWW-Authenticate", 'Basic realm="tests"')
            return b'{"details":"incorrect username or password"}'
        arguments: dict[bytes, list[bytes]] = request.args or {}
        scopes = [scope.decode() for scope in arguments.get(b"scope", [])]
        self.asked += scopes
        return json.dumps({"access_token": self._token(scopes), "expires_in": 300}).encode()

    def _token(self, scopes: list[str]) -> str:
        """A JSON web token, as the distribution specification's token authentication has it."""
        certificate = load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [b64encode(certificate).decode()]}
        now, access = int(time.time()), []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": "",
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": token_hex(8),
            "access": access,
        }
        signed = b".".join(_part(json.dumps(each).encode()) for each in (header, claims))
        numbers = decode_dss_signature(self._key.sign(signed, ECDSA(SHA256())))
        signature = b"".join(number.to_bytes(32, "big") for number in numbers)
        return b".".join((signed, _part(signature))).decode()
