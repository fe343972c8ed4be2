"""Encrypts the secrets of webhooks, so that a copy of the database does not contain them in plain text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cached_property, lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr

from pixtools.errors import WebhookSecretUnreadable, WebhooksOff

_PURPOSE = b"pixtools webhook secrets\0"


class Vault:
    """Encrypts and decrypts with the keys of the setting PIXTOOLS_WEBHOOK_KEYS."""

    def __init__(self, keys: SecretStr | None) -> None:
        """`keys` are random texts, separated by commas. The first one encrypts, and each of them decrypts."""
        self._keys = keys

    def require_keys(self) -> None:
        """Raise WebhooksOff if there is no key."""
        if self._keys is None:
            raise WebhooksOff(
                "Set PIXTOOLS_WEBHOOK_KEYS to a random text of at least 32 characters, such as the output of "
                "`openssl rand -hex 32`."
            )

    def encrypt(self, secret: str) -> bytes:
        """Return the encrypted secret. Raises WebhooksOff if there is no key."""
        return self._fernet.encrypt(secret.encode())

    def decrypt(self, encrypted: bytes) -> str:
        """Return the secret. Raises WebhooksOff without a key, and WebhookSecretUnreadable if no key fits."""
        try:
            return self._decrypted(encrypted)
        except InvalidToken as error:
            raise WebhookSecretUnreadable(
                "Add the key that encrypted the secret to PIXTOOLS_WEBHOOK_KEYS, or rotate the secret."
            ) from error

    @cached_property
    def _decrypted(self) -> Callable[[bytes], str]:
        # Couriers need the same few secrets again and again.
        return lru_cache(1_000)(lambda encrypted: self._fernet.decrypt(encrypted).decode())

    @cached_property
    def _fernet(self) -> MultiFernet:
        self.require_keys()
        assert self._keys is not None  # noqa: S101 (checked by the line above)
        return MultiFernet([Fernet(_derived(key)) for key in self._keys.get_secret_value().split(",")])


def _derived(key: str) -> bytes:
    """Return a Fernet key. The text is random already, so one hash is enough."""
    return base64.urlsafe_b64encode(hashlib.sha256(_PURPOSE + key.strip().encode()).digest())
