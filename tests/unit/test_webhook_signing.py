"""Signatures of webhooks, checked with the library that receivers use."""

from __future__ import annotations

import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from pixtools.webhooks.signing import headers, new_secret

BODY = '{"type":"job.succeeded","data":{"text":"ü"}}'.encode()


def signed(*secrets: str, at: int | None = None) -> dict[str, str]:
    return headers("0199", round(time.time()) if at is None else at, BODY, secrets)


def test_the_library_of_standard_webhooks_accepts_a_signature():
    secret = new_secret()

    assert Webhook(secret).verify(BODY, signed(secret))["type"] == "job.succeeded"


def test_while_a_secret_rotates_both_secrets_are_valid():
    old, new = new_secret(), new_secret()
    both = signed(new, old)

    for secret in (old, new):
        Webhook(secret).verify(BODY, both)
    assert len(both["webhook-signature"].split()) == 2


@pytest.mark.parametrize("change", ["secret", "body", "id", "time"])
def test_a_signature_covers_the_id_the_time_and_the_body(change):
    secret = new_secret()
    sent = signed(secret)
    verifier = Webhook(new_secret() if change == "secret" else secret)
    if change == "id":
        sent["webhook-id"] = "0198"
    if change == "time":
        sent["webhook-timestamp"] = str(int(sent["webhook-timestamp"]) + 1)

    with pytest.raises(WebhookVerificationError):
        verifier.verify(BODY + b" " if change == "body" else BODY, sent)


def test_an_old_request_cannot_be_sent_again():
    secret = new_secret()

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, signed(secret, at=round(time.time()) - 3_600))


def test_secrets_are_random():
    assert len({new_secret() for _ in range(100)}) == 100
