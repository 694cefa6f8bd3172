"""Passwords for one session, after "A REST API For Access To TURN Services": the user name says until when it is good,
the password is its HMAC-SHA-1 under a secret that only coturn and this process know. Nothing is stored anywhere.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta


def make_credentials(secret: str, lifetime: int, now: datetime) -> tuple[str, str]:
    """A user name and a password with which a client may begin until `lifetime` seconds after `now`.

    The name has a random part, so that coturn's limit for each user is one for each session.
    """
    username = f"{int((now + timedelta(seconds=lifetime)).timestamp())}:{secrets.token_hex(4)}"
    return username, password_of(secret, username)


def password_of(secret: str, username: str) -> str:
    """The password that belongs to `username`."""
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), hashlib.sha1)).decode("ascii")


__all__ = ["make_credentials", "password_of"]
