"""Signatures of webhooks, checked with the library that receivers use."""

from __future__ import annotations

import time

import pytest
from click.testing import CliRunner
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from pixtools.webhooks.signing import headers, is_valid, new_secret
from serve.webhooks_cli import report, webhooks

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


@pytest.mark.parametrize("late_s", [-290, 0, 290])
def test_our_own_receiver_accepts_a_signature(late_s):
    secret = new_secret()

    assert is_valid(signed(new_secret(), secret, at=1_000_000), BODY, secret, 1_000_000 + late_s)


@pytest.mark.parametrize(
    ("changed", "body", "now"),
    [
        ({}, BODY + b" ", 0),
        ({}, BODY, 301),
        ({}, BODY, -301),
        ({"webhook-id": "other"}, BODY, 0),
        ({"webhook-timestamp": "1000001"}, BODY, 0),
        ({"webhook-timestamp": "²"}, BODY, 0),
        ({"webhook-timestamp": ""}, BODY, 0),
        ({"webhook-timestamp": "9" * 400}, BODY, 0),
        ({"webhook-signature": "v1,ü"}, BODY, 0),
        ({"webhook-signature": ""}, BODY, 0),
    ],
)
def test_our_own_receiver_refuses_what_was_changed(changed, body, now):
    secret = new_secret()

    assert not is_valid(signed(secret, at=1_000_000) | changed, body, secret, 1_000_000 + now)


def test_the_report_of_the_receiver_shows_the_verdict_and_the_body():
    sent = signed(new_secret(), at=1_000_000)

    assert "job.succeeded  signature: valid  webhook-id: 0199" in report(sent, BODY, 1_000_000, valid=True)
    assert "signature: INVALID" in report(sent, BODY, 1_000_000, valid=False)
    assert "signature: not verified" in report({}, b"[1]", 1_000_000, valid=None)
    assert "not JSON" in report({}, b"\xff", 1_000_000, valid=None)
    hostile = report({"webhook-id": "\x1b]0;x\x07"}, b'"\x1b[2J\xc2\x9b"', 1_000_000, valid=None)
    assert "webhook-id: ?]0;x?" in hostile
    assert hostile.replace("\n", "").isprintable()


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_???", "mine"[:3], "whsec_ä"])
def test_the_receiver_refuses_a_text_that_is_no_secret_at_its_start(secret):
    ended = CliRunner().invoke(webhooks, ["listen", "--port", "0", "--secret", secret])

    assert ended.exit_code == 2
    assert "It must be the secret of an endpoint" in ended.output
