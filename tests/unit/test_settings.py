"""The settings of the service: environment variables, units, and refused values."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from pixtools.database.connection import engine
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.local.local_settings import LocalSettings
from pixtools.settings import SECRETS, VARIABLES, HttpSettings, Settings, files_in_secrets_dir

URLS = {"database_url": "postgresql://user:secret@db/x", "redis_url": "redis://:secret@cache/0"}


def test_two_renewals_may_fail_before_a_lease_ends():
    settings = Settings(**URLS, renew_interval=timedelta(seconds=10), lease=timedelta(seconds=30))
    assert settings.renew_interval == timedelta(seconds=10)

    with pytest.raises(ValidationError, match="PIXTOOLS_RENEW_INTERVAL must be at most a third of PIXTOOLS_LEASE"):
        Settings(**URLS, renew_interval=timedelta(seconds=11), lease=timedelta(seconds=30))


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


def test_the_weights_of_the_denoiser_are_identified_by_their_digest():
    assert Settings(**URLS).weights_sha256 == SHIPPED_SHA256
    assert Settings(**URLS, denoise_weights=WEIGHTS, denoise_weights_sha256=DIGEST).weights_sha256 == DIGEST


@pytest.mark.parametrize("half", [{"denoise_weights": WEIGHTS}, {"denoise_weights_sha256": DIGEST}])
def test_weights_without_a_digest_and_a_digest_without_weights_are_refused(half):
    with pytest.raises(
        ValidationError, match="WEIGHTS and PIXTOOLS_DENOISE_WEIGHTS_SHA256 belong together: set both or"
    ):
        Settings(**URLS, **half)


@pytest.mark.parametrize("digest", [DIGEST[1:], DIGEST.upper(), f"sha256:{DIGEST}"])
def test_a_digest_that_is_not_64_hexadecimal_digits_is_refused(digest):
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
def test_a_duration_in_the_environment_is_in_seconds_or_in_iso_8601(monkeypatch, text, duration):
    monkeypatch.setenv("PIXTOOLS_DRAIN_TIMEOUT", text)

    assert Settings(**URLS).drain_timeout == duration


RENAMED = [
    ("renew_interval", "PIXTOOLS_RENEW_INTERVAL", "PIXTOOLS_BEAT"),
    ("poll_interval", "PIXTOOLS_POLL_INTERVAL", "PIXTOOLS_POLL"),
    ("sweep_interval", "PIXTOOLS_SWEEP_INTERVAL", "PIXTOOLS_SWEEP"),
    ("reconcile_interval", "PIXTOOLS_RECONCILE_INTERVAL", "PIXTOOLS_RECONCILE"),
    ("drain_timeout", "PIXTOOLS_DRAIN_TIMEOUT", "PIXTOOLS_DRAIN"),
    ("denoise_start_timeout", "PIXTOOLS_DENOISE_START_TIMEOUT", "PIXTOOLS_DENOISE_PATIENCE"),
]


@pytest.mark.parametrize(("field", "variable", "earlier"), RENAMED)
def test_a_renamed_variable_still_works_under_its_earlier_name(monkeypatch, field, variable, earlier):
    monkeypatch.setenv(earlier, "7")
    assert getattr(Settings(**URLS), field) == timedelta(seconds=7)

    monkeypatch.setenv(variable, "8")
    assert getattr(Settings(**URLS), field) == timedelta(seconds=8)

    monkeypatch.setenv(variable, "")  # an empty variable counts as not set
    assert getattr(Settings(**URLS), field) == timedelta(seconds=7)


@pytest.mark.parametrize("field", [field for field, _, _ in RENAMED])
def test_a_variable_without_the_prefix_sets_nothing(monkeypatch, field):
    monkeypatch.setenv(field.upper(), "7")

    assert getattr(Settings(**URLS), field) != timedelta(seconds=7)


def test_the_folders_of_the_stores_are_separated_by_colons(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_STORE_FOLDERS", "/data/postgres:/data/s3")

    assert Settings(**URLS).store_folders == (Path("/data/postgres"), Path("/data/s3"))


def test_every_password_and_key_is_a_secret():
    assert {
        "PIXTOOLS_DATABASE_URL",
        "PIXTOOLS_REDIS_URL",
        "PIXTOOLS_S3_ACCESS_KEY_ID",
        "PIXTOOLS_S3_SECRET_ACCESS_KEY",
        "PIXTOOLS_WEBHOOK_KEYS",
    } == SECRETS
    assert SECRETS | {"PIXTOOLS_MAX_STEPS", "PIXTOOLS_POLL_INTERVAL", "PIXTOOLS_POLL"} < VARIABLES


@pytest.fixture
def secrets_dir(tmp_path, monkeypatch):
    """A folder with one file for each secret, as Docker and Kubernetes provide them."""
    for name, text in {
        "PIXTOOLS_DATABASE_URL": "postgresql://from@file/x\n",
        "pixtools_redis_url": "redis://file/0",
        "PIXTOOLS_POLL": "7",
        "other": "x",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PIXTOOLS_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("secrets_dir")
def test_variables_that_are_not_set_come_from_files():
    settings = Settings()

    assert settings.database_url.get_secret_value() == "postgresql://from@file/x"
    assert settings.redis_url.get_secret_value() == "redis://file/0"
    assert settings.poll_interval == timedelta(seconds=7)
    assert LocalSettings().database_url == settings.database_url
    assert files_in_secrets_dir() == {
        "PIXTOOLS_DATABASE_URL": "postgresql://from@file/x",
        "PIXTOOLS_REDIS_URL": "redis://file/0",
        "PIXTOOLS_POLL": "7",
    }


@pytest.mark.usefixtures("secrets_dir")
def test_an_environment_variable_wins_over_a_file_unless_it_is_empty(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_REDIS_URL", "redis://environment/0")
    monkeypatch.setenv("PIXTOOLS_DATABASE_URL", "")
    settings = Settings()

    assert settings.redis_url.get_secret_value() == "redis://environment/0"
    assert settings.database_url.get_secret_value() == "postgresql://from@file/x"


@pytest.mark.parametrize("name", ["missing", "other"])
def test_a_folder_of_secrets_that_cannot_be_read_is_refused(monkeypatch, secrets_dir, name):
    path = str(secrets_dir / name)
    monkeypatch.setenv("PIXTOOLS_SECRETS_DIR", path)

    with pytest.raises(SettingsError, match=f"PIXTOOLS_SECRETS_DIR={path} is not a folder that this process can read"):
        Settings()


def test_a_download_url_works_for_at_most_15_minutes():
    assert Settings(**URLS).url_ttl == timedelta(minutes=15)

    with pytest.raises(ValidationError, match="url_ttl"):
        Settings(**URLS, url_ttl=timedelta(minutes=16))


def test_the_http_front_reads_its_settings_without_the_urls_of_the_stores(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_PUBLIC_HOSTS", " Pix.Example:8443, 10.0.0.1,[2001:db8::1],")
    monkeypatch.setenv("PIXTOOLS_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8")
    monkeypatch.setenv("PIXTOOLS_BODY_TIMEOUT", "PT2M")

    settings = HttpSettings()

    assert settings.public_hosts == ("pix.example:8443", "10.0.0.1", "[2001:db8::1]")
    assert [str(network) for network in settings.trusted_proxies] == ["127.0.0.1/32", "10.0.0.0/8"]
    assert settings.body_timeout == timedelta(minutes=2)
    assert Settings(**URLS).public_hosts == settings.public_hosts


@pytest.mark.parametrize("value", ["https://pix.example", "pix.example/", "*.example", "a b", "2001:db8::1"])
def test_a_public_host_is_a_name_or_an_address_and_not_a_url(value):
    with pytest.raises(ValidationError, match="public_hosts"):
        HttpSettings(public_hosts=value)


@pytest.mark.parametrize("value", ["proxy.example", "10.0.0.1/8"])
def test_a_trusted_proxy_is_an_address_or_a_network(value):
    with pytest.raises(ValidationError, match="trusted_proxies"):
        HttpSettings(trusted_proxies=value)


def test_reading_settings_loads_no_imaging_library():
    """Every process reads the settings. Loading numpy and Pillow takes 0.7 s, and most processes need neither."""
    program = "import sys, pixtools.settings; print({'numpy', 'PIL'} & sys.modules.keys())"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "set()"
