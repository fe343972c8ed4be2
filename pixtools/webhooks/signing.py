"""Secrets and signatures of webhooks, as Standard Webhooks defines them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_TOLERANCE_S = 300
_TIMESTAMP = re.compile("[0-9]{1,12}")


def new_secret() -> str:
    """Return a random secret of 256 bits, in the notation that the libraries of Standard Webhooks expect."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def is_secret(text: str) -> bool:
    """Return whether `text` is a secret in the notation of Standard Webhooks, with or without its prefix."""
    try:
        return bool(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
    except ValueError:
        return False


def headers(message_id: str, timestamp: int, body: bytes, signing_secrets: Iterable[str]) -> dict[str, str]:
    """Return the headers that let a receiver verify `body`, with one signature for each secret.

    `timestamp` is the time of the attempt in seconds since 1970. While a secret rotates, there are two secrets, and a
    receiver accepts the body if one of the signatures is valid.
    """
    signatures = (f"v1,{_signature(message_id, timestamp, body, secret)}" for secret in signing_secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def is_valid(request: Mapping[str, str], body: bytes, secret: str, now: float) -> bool:
    """Return whether a request was signed with `secret` in the last or next five minutes.

    `request` has the headers with names in lower case. `now` is the time in seconds since 1970.
    """
    timestamp = request.get("webhook-timestamp", "")
    if not _TIMESTAMP.fullmatch(timestamp) or abs(int(timestamp) - now) > _TOLERANCE_S:
        return False
    expected = headers(request.get("webhook-id", ""), int(timestamp), body, [secret])["webhook-signature"]
    signatures = request.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(each.encode(), expected.encode()) for each in signatures)


def _signature(message_id: str, timestamp: int, body: bytes, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
