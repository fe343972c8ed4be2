"""Secrets at rest."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from pixtools.errors import WebhookSecretUnreadable, WebhooksOff
from pixtools.settings import Settings
from pixtools.webhooks.vault import Vault

OLD, NEW = "o" * 32, "n" * 40


def vault(*keys: str) -> Vault:
    return Vault(SecretStr(", ".join(keys)) if keys else None)


def test_what_was_encrypted_can_be_decrypted():
    encrypted = vault(OLD).encrypt("whsec_x")

    assert b"whsec" not in encrypted
    assert vault(OLD).decrypt(encrypted) == "whsec_x"


def test_keys_can_be_rotated():
    old, new = vault(OLD).encrypt("a"), vault(NEW, OLD).encrypt("b")

    assert (vault(NEW, OLD).decrypt(old), vault(NEW).decrypt(new)) == ("a", "b")
    with pytest.raises(WebhookSecretUnreadable, match="PIXTOOLS_WEBHOOK_KEYS"):
        vault(NEW).decrypt(old)


def test_without_a_key_the_error_says_how_to_set_one():
    for call in (vault().require_keys, lambda: vault().encrypt("a"), lambda: vault().decrypt(b"a")):
        with pytest.raises(WebhooksOff, match="PIXTOOLS_WEBHOOK_KEYS"):
            call()


@pytest.mark.parametrize("keys", ["short", f"{OLD},", f"{OLD},short"])
def test_a_short_key_is_refused_at_the_start(keys):
    with pytest.raises(ValidationError, match="at least 32 characters"):
        Settings(database_url="postgresql://x", redis_url="redis://x", webhook_keys=keys)
