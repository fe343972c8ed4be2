"""The settings of the service: read from the environment once, then passed down as one object."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.limits import JobLimits, Limits
from pixtools.logs import LogFormat


def _seconds(value: object) -> object:
    """Convert a plain number in the environment to seconds. Pydantic expects ISO 8601 and would refuse the number."""
    try:
        seconds = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return seconds if math.isfinite(seconds) else value


DurationOrZero = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta())]
"""A time span: a number of seconds, or ISO 8601 such as `PT30S` or `P7D`."""

Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta())]
"""A time span longer than zero, in the notations of DurationOrZero."""


def _paths(value: object) -> object:
    """Split a list of paths in the environment at each colon."""
    return [path for path in value.split(":") if path] if isinstance(value, str) else value


Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)]
"""Paths of folders. In the environment, colons separate the paths."""


def _renamed(default: timedelta, *variables: str) -> Any:
    """Return a field that has several environment variables: first the current name, then earlier names."""
    return Field(default, validation_alias=AliasChoices(*variables))


class EnvironmentSettings(BaseSettings):
    """Settings from environment variables, and from files for variables that are not set.

    The variable PIXTOOLS_SECRETS_DIR is the path of a folder with one file for each variable, as Docker and Kubernetes
    provide secrets. Raises SettingsError if this folder cannot be read.
    """

    @classmethod
    def settings_customise_sources(  # noqa: D102 (the base class describes it)
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (part of the interface)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, _secrets_dir())


def _secrets_dir() -> Path | None:
    text = os.environ.get("PIXTOOLS_SECRETS_DIR")
    if not text:
        return None
    if not os.path.isdir(text) or not os.access(text, os.R_OK | os.X_OK):  # noqa: PTH112 (Path.is_dir may raise)
        raise SettingsError(f"PIXTOOLS_SECRETS_DIR={text} is not a folder that this process can read")
    return Path(text)


def _items(value: object) -> object:
    """Split a list in the environment at its commas."""
    return [item for item in map(str.strip, value.split(",")) if item] if isinstance(value, str) else value


Host = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?$"), AfterValidator(str.lower)]
"""A name or an IP address, with or without a port. An IPv6 address is in brackets."""

_MIN_KEY_LENGTH = 32  # characters of a key that encrypts secrets

MAX_FORM_BYTES = 262_144
"""Bytes of the body of a submission in addition to its files: text fields, headers and boundaries."""


class HttpSettings(EnvironmentSettings):
    """The settings of the HTTP front. The proxy reads them, and the proxy does not know the URLs of the stores.

    The environment variable `PIXTOOLS_<NAME>` sets the field `<name>`. Raises ValidationError for a value that is not
    valid, and SettingsError if the folder PIXTOOLS_SECRETS_DIR cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix="PIXTOOLS_", env_ignore_empty=True, frozen=True, validate_by_name=True, validate_by_alias=True
    )

    host: str | None = None  # where the service listens, if `pixtools up` set it
    public_hosts: Annotated[tuple[Host, ...], NoDecode, BeforeValidator(_items)] = ()
    # The addresses of proxies in front of the service. The X-Forwarded-For header of only these proxies is believed.
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_items)] = ()

    # Whether our HAProxy is in front, which appends the address of the client to X-Forwarded-For. Only `pixtools up`
    # sets this.
    behind_haproxy: bool = False

    max_upload_bytes: int = Field(25_000_000, ge=1)
    body_timeout: Duration = timedelta(minutes=1)
    max_client_requests: int = Field(32, ge=1)  # at once, without event streams
    max_client_streams: int = Field(20, ge=1)
    max_client_refusals: int = Field(20, ge=0)  # in a minute; each refused megabyte counts as one more

    @property
    def max_submission_bytes(self) -> int:
        """The largest body of a request that submits a job."""
        return self.max_upload_bytes + MAX_FORM_BYTES


class Settings(HttpSettings):
    """The settings of a running service: those of the HTTP front, and all others."""

    database_url: SecretStr
    redis_url: SecretStr

    s3_endpoint_url: str | None = None  # None: AWS itself
    s3_public_url: str | None = None  # where browsers reach S3, if that differs from s3_endpoint_url
    s3_bucket: str = "pixtools"
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None  # None: boto3 looks for credentials in its usual places
    s3_secret_access_key: SecretStr | None = None
    # A URL is read with a job and used at once. Nobody can revoke a URL, so it never works for longer than this.
    stream_lifetime: Duration = timedelta(hours=1)  # of an event stream; a browser then opens another one
    url_ttl: Duration = Field(timedelta(minutes=15), le=timedelta(minutes=15))

    max_pixels: int = Field(50_000_000, ge=1)  # of all frames together
    max_side: int = Field(16_384, ge=1)
    max_frames: int = Field(100, ge=1)
    max_steps: int = Field(50, ge=1)
    max_parts: int = Field(5, ge=0)  # further files of a request, such as a logo
    max_part_pixels: int = Field(16_000_000, ge=1)
    max_job_pixels: int = Field(500_000_000, ge=1)  # of all pictures that the steps of a job leave as files
    max_kept_steps: int = Field(20, ge=0)  # steps whose pixels are stored as a lossless PNG
    max_job_bytes: int = Field(1_000_000_000, ge=1)  # of all artifacts of a job together

    max_queued_jobs: int = Field(10_000, ge=1)  # new jobs are refused while the queue has this many jobs
    max_queued_pixels: int = Field(100_000_000_000, ge=1)  # ... or while the queued jobs have this many pixels
    min_free_bytes: int = Field(1_000_000_000, ge=0)  # ... or while one of the watched folders has less free space
    store_folders: Folders = ()  # watched in addition to the temporary folder; `pixtools up` sets it

    denoise_weights: str | None = None  # a path or s3://bucket/key; None: the weights that PixTools ships
    denoise_weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    denoise_device: Literal["auto", "cpu", "cuda"] = "auto"
    denoise_threads: int | None = Field(None, ge=1)  # threads on a CPU; None: one for each core of the node
    # Longest wait until a denoiser begins with a picture. The cluster may have to start a node for the denoiser first.
    denoise_start_timeout: Duration = _renamed(
        timedelta(minutes=10), "PIXTOOLS_DENOISE_START_TIMEOUT", "PIXTOOLS_DENOISE_PATIENCE"
    )
    max_denoising: int = Field(32, ge=1)  # jobs at the denoiser, in addition to the other jobs of a dispatcher

    lease: Duration = timedelta(seconds=30)
    renew_interval: Duration = _renamed(timedelta(seconds=10), "PIXTOOLS_RENEW_INTERVAL", "PIXTOOLS_BEAT")
    poll_interval: Duration = _renamed(timedelta(seconds=1), "PIXTOOLS_POLL_INTERVAL", "PIXTOOLS_POLL")
    sweep_interval: Duration = _renamed(timedelta(seconds=5), "PIXTOOLS_SWEEP_INTERVAL", "PIXTOOLS_SWEEP")
    step_deadline: Duration = timedelta(minutes=2)
    job_deadline: Duration = timedelta(minutes=30)  # of one attempt; only the time on converters counts
    max_attempts: int = Field(5, ge=1)  # tries of a step whose error is retryable
    max_crashes: int = Field(3, ge=1)  # crashes after which a step, or each open step of a job, fails permanently
    # How long running jobs may go on when their dispatcher is asked to stop.
    drain_timeout: Duration = _renamed(timedelta(seconds=20), "PIXTOOLS_DRAIN_TIMEOUT", "PIXTOOLS_DRAIN")
    idempotency_ttl: Duration = timedelta(hours=24)

    job_retention: Duration = timedelta(days=7)  # how long results are kept after the end of their job
    record_retention: Duration = timedelta(days=90)  # how long the record of a job is kept after its results
    dead_letter_retention: Duration = timedelta(days=30)
    orphan_age: Duration = Field(timedelta(days=1), ge=timedelta(hours=1))  # older files without a record are deleted
    reconcile_interval: Duration = _renamed(timedelta(hours=1), "PIXTOOLS_RECONCILE_INTERVAL", "PIXTOOLS_RECONCILE")
    redrives_per_s: float = Field(10.0, gt=0)

    # Random texts, separated by commas: the first one encrypts the secrets of webhooks, and each of them decrypts.
    webhook_keys: SecretStr | None = None
    allow_private_webhooks: bool = False  # whether a webhook may go to this machine and to private networks
    couriers: int = Field(1, ge=1)
    delivery_retention: Duration = timedelta(days=30)

    log_format: LogFormat = "text"
    traces_url: str | None = Field(None, pattern="^https?://")  # of an OpenTelemetry collector: …/v1/traces

    dispatchers: int = Field(1, ge=1)
    min_converters: int = Field(2, ge=0)  # two, so that they can share the first large picture at once
    max_converters: int | None = Field(None, ge=1)  # per dispatcher; None: CPUs divided by dispatchers
    converter_idle: Duration = timedelta(minutes=1)  # a converter that is idle for this long is stopped
    converter_memory_bytes: int = Field(3_000_000_000, ge=1)  # in addition to the memory of an idle converter
    node_memory_bytes: int | None = Field(None, ge=1)  # for all converters of a node; None: 70 % of its memory

    @model_validator(mode="after")
    def _renewals_fit_the_lease(self) -> Self:
        # With an interval of a third of the lease, two renewals may fail before the lease runs out and the sweeper
        # takes the job.
        if self.renew_interval * 3 > self.lease:
            raise ValueError("PIXTOOLS_RENEW_INTERVAL must be at most a third of PIXTOOLS_LEASE")
        return self

    @model_validator(mode="after")
    def _weights_are_known(self) -> Self:
        # The digest must be known, because step keys contain it: other weights give other results.
        if (self.denoise_weights is None) != (self.denoise_weights_sha256 is None):
            raise ValueError(
                "PIXTOOLS_DENOISE_WEIGHTS and PIXTOOLS_DENOISE_WEIGHTS_SHA256 belong together: set both or neither"
            )
        return self

    @model_validator(mode="after")
    def _webhook_keys_are_long(self) -> Self:
        keys = self.webhook_keys.get_secret_value().split(",") if self.webhook_keys else []
        if any(len(key.strip()) < _MIN_KEY_LENGTH for key in keys):
            raise ValueError(
                f"PIXTOOLS_WEBHOOK_KEYS: each key must have at least {_MIN_KEY_LENGTH} characters; commas separate keys"
            )
        return self

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the denoiser's weights for photos, in hexadecimal digits."""
        return self.denoise_weights_sha256 or SHIPPED_SHA256

    def image_limits(self) -> Limits:
        """Return the limits of a source image and of every picture that a step makes."""
        return Limits(self.max_pixels, self.max_side, self.max_frames)

    def part_limits(self) -> Limits:
        """Return the limits of a part, which is a further file of a request."""
        return Limits(min(self.max_part_pixels, self.max_pixels), self.max_side, self.max_frames)

    def job_limits(self) -> JobLimits:
        """Return the limits of a new job."""
        return JobLimits(self.max_job_pixels, self.max_kept_steps)


def _variables(name: str, field: FieldInfo) -> list[str]:
    if isinstance(field.validation_alias, AliasChoices):
        return [str(choice) for choice in field.validation_alias.choices]
    return [f"PIXTOOLS_{name.upper()}"]


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


VARIABLES = frozenset(name for key, field in Settings.model_fields.items() for name in _variables(key, field))
"""The environment variables of the service."""

SECRETS = frozenset(
    name for key, field in Settings.model_fields.items() if _is_secret(field) for name in _variables(key, field)
)
"""The variables among `VARIABLES` that contain passwords or keys. They never appear where others can read them."""


def files_in_secrets_dir() -> dict[str, str]:
    """Return the variables of the service that are files in the folder PIXTOOLS_SECRETS_DIR.

    Raises SettingsError if this folder cannot be read.
    """
    folder = _secrets_dir()
    files = folder.iterdir() if folder else ()
    return {path.name.upper(): path.read_text().strip() for path in files if path.name.upper() in VARIABLES}
