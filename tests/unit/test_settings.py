"""The service's settings: what does not fit together is refused when they are read."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from pixtools.database.connection import engine
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.settings import Settings

URLS = {"database_url": "postgresql://user:secret@db/x", "redis_url": "redis://:secret@cache/0"}


def test_two_renewals_may_fail_before_a_lease_ends():
    assert Settings(**URLS, beat=timedelta(seconds=10), lease=timedelta(seconds=30)).beat == timedelta(seconds=10)

    with pytest.raises(ValidationError, match="PIXTOOLS_BEAT must be at most a third of PIXTOOLS_LEASE"):
        Settings(**URLS, beat=timedelta(seconds=11), lease=timedelta(seconds=30))


def test_settings_do_not_show_their_secrets():
    settings = Settings(**URLS, s3_access_key_id="secret-id", s3_secret_access_key="secret-key")

    assert "secret" not in repr(settings).replace("s3_secret_access_key", "")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings(**URLS).max_steps = 1


@pytest.mark.parametrize(
    "name", ["max_upload_bytes", "max_pixels", "max_side", "max_frames", "max_steps", "max_attempts"]
)
def test_a_limit_of_zero_is_refused(name):
    with pytest.raises(ValidationError, match=name):
        Settings(**URLS, **{name: 0})


WEIGHTS, DIGEST = "s3://models/weights.safetensors", "0f" * 32


def test_the_weights_of_the_denoiser_are_named_by_their_digest():
    assert Settings(**URLS).weights_sha256 == SHIPPED_SHA256
    assert Settings(**URLS, denoise_weights=WEIGHTS, denoise_weights_sha256=DIGEST).weights_sha256 == DIGEST


@pytest.mark.parametrize("half", [{"denoise_weights": WEIGHTS}, {"denoise_weights_sha256": DIGEST}])
def test_weights_without_a_digest_and_a_digest_without_weights_are_refused(half):
    with pytest.raises(ValidationError, match="WEIGHTS and PIXTOOLS_DENOISE_WEIGHTS_SHA256 go together: set both, or"):
        Settings(**URLS, **half)


@pytest.mark.parametrize("digest", [DIGEST[1:], DIGEST.upper(), f"sha256:{DIGEST}"])
def test_what_is_no_digest_is_refused(digest):
    with pytest.raises(ValidationError, match="denoise_weights_sha256"):
        Settings(**URLS, denoise_weights=WEIGHTS, denoise_weights_sha256=digest)


@pytest.mark.parametrize("url", ["mysql://db/x", "sqlite:///x", "db", ""])
def test_only_postgres_is_a_database(url):
    with pytest.raises(ValueError, match="PIXTOOLS_DATABASE_URL must begin with postgresql://"):
        engine(url, pool_size=1)


@pytest.mark.parametrize(
    ("text", "duration"),
    [("30", timedelta(seconds=30)), ("0.5", timedelta(seconds=0.5)), ("P7D", timedelta(days=7))],
)
def test_a_duration_in_the_environment_is_in_seconds_or_as_iso_8601_has_it(monkeypatch, text, duration):
    monkeypatch.setenv("PIXTOOLS_DRAIN", text)

    assert Settings(**URLS).drain == duration
