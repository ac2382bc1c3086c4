"""Verifies a permit without Marg: what docs/policy.md says, in twenty lines that may be copied.

Run as `python -m pytest tests/permit/verify.py`, or as `python tests/permit/verify.py`. Needs the package cryptography.
"""

import base64
import hashlib
import json
import pathlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HERE = pathlib.Path(__file__).parent


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verify(token, jwks, audience, body, now):
    """The claims of a permit; raises if anything is wrong with it."""
    if len(token) > 4095:
        raise ValueError("too long")
    header, claims, signature = token.split(".")
    head = json.loads(decode(header))
    if head.get("alg") != "EdDSA" or head.get("typ") != "marg-permit+jwt" or "crit" in head:
        raise ValueError("not a permit")
    (key,) = [key for key in jwks["keys"] if key["kid"] == head["kid"] and key["crv"] == "Ed25519"]
    Ed25519PublicKey.from_public_bytes(decode(key["x"])).verify(decode(signature), f"{header}.{claims}".encode())
    said = json.loads(decode(claims))
    if said["aud"] != audience or not said["iat"] - 60 <= now < said["exp"]:
        raise ValueError("for another audience or another time")
    if said["body_sha256"] != hashlib.sha256(body).hexdigest():
        raise ValueError("for another body")
    return said


TOKEN = (HERE / "token.txt").read_text().strip()
KEYS = json.loads((HERE / "jwks.json").read_text())
BODY = b'{"model":"gpt-4.1-mini"}'
NOW = 1_800_000_000


def refuses(token=TOKEN, audience="https://api.example", body=BODY, now=NOW):
    try:
        verify(token, KEYS, audience, body, now)
    except (ValueError, InvalidSignature):
        return True
    return False


def test_a_permit_says_what_was_admitted():
    said = verify(TOKEN, KEYS, "https://api.example", BODY, NOW)
    assert (said["sub"], said["provider"], said["model"]) == ("key_01", "openai", "gpt-4.1-mini")


def test_a_permit_for_somebody_else_or_another_time_or_body_is_refused():
    assert refuses(audience="https://other.example")
    assert refuses(now=NOW + 60)
    assert refuses(now=NOW - 61)
    assert refuses(body=b"other")
    header, claims, signature = TOKEN.split(".")
    other = base64.urlsafe_b64encode(decode(claims).replace(b"key_01", b"key_02")).rstrip(b"=").decode()
    assert refuses(token=f"{header}.{other}.{signature}")


if __name__ == "__main__":
    test_a_permit_says_what_was_admitted()
    test_a_permit_for_somebody_else_or_another_time_or_body_is_refused()
    print("ok")
