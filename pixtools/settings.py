"""The service's settings: read from the environment once, passed down from there."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.imaging.header import Limits


def _seconds(value: object) -> object:
    """Read a plain number in the environment as seconds; pydantic itself reads such text as a broken ISO 8601."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else value


Duration = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta())]


class Settings(BaseSettings):
    """What a running service needs to know. `PIXTOOLS_<NAME>` sets each; durations are in seconds or as `P7D`."""

    model_config = SettingsConfigDict(env_prefix="PIXTOOLS_", env_ignore_empty=True, frozen=True)

    database_url: SecretStr
    redis_url: SecretStr

    s3_endpoint_url: str | None = None  # None: AWS itself
    s3_public_url: str | None = None  # where a browser reaches S3, when not by s3_endpoint_url
    s3_bucket: str = "pixtools"
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None  # None: boto3's own chain of credentials
    s3_secret_access_key: SecretStr | None = None
    url_ttl: Duration = timedelta(minutes=15)

    max_upload_bytes: int = Field(25_000_000, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)  # over all frames
    max_side: int = Field(16_384, ge=1)
    max_frames: int = Field(100, ge=1)
    max_steps: int = Field(50, ge=1)
    max_parts: int = Field(5, ge=0)  # files beside the image, for the steps that name them
    max_part_pixels: int = Field(16_000_000, ge=1)

    denoise_weights: str | None = None  # a path or s3://bucket/key; None: those that come with PixTools
    denoise_weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    denoise_device: Literal["auto", "cpu", "cuda"] = "auto"
    denoise_threads: int | None = Field(None, ge=1)  # on a CPU; None: all that the node has
    denoise_patience: Duration = timedelta(minutes=10)  # for a denoiser to begin: its node may have to be started
    max_denoising: int = Field(32, ge=1)  # jobs of each dispatcher that may be at a denoiser beside its others

    lease: Duration = timedelta(seconds=30)
    beat: Duration = timedelta(seconds=10)
    poll: Duration = timedelta(seconds=1)
    sweep: Duration = timedelta(seconds=5)
    step_deadline: Duration = timedelta(minutes=2)
    max_attempts: int = Field(5, ge=1)  # tries of a step that failed for a reason that may pass
    max_crashes: int = Field(3, ge=1)  # crashes under a step, or rescues of a job, before it is given up
    drain: Duration = timedelta(seconds=20)  # how long running jobs may go on when their dispatcher is to end
    idempotency_ttl: Duration = timedelta(hours=24)

    job_retention: Duration = timedelta(days=7)  # how long results are kept after a job's end
    record_retention: Duration = timedelta(days=90)  # how long it is remembered after that
    dead_letter_retention: Duration = timedelta(days=30)
    orphan_age: Duration = Field(timedelta(days=1), ge=timedelta(hours=1))  # of a file to which nothing refers, to go
    reconcile: Duration = timedelta(hours=1)
    redrives_per_s: float = Field(10.0, gt=0)

    dispatchers: int = Field(1, ge=1)
    min_converters: int = Field(2, ge=0)  # two, so that the first large picture is shared already
    max_converters: int | None = Field(None, ge=1)  # of each dispatcher; None: its share of the CPUs
    converter_idle: Duration = timedelta(minutes=1)
    converter_memory_bytes: int = Field(3_000_000_000, ge=1)  # beyond what an idle one takes
    node_memory_bytes: int | None = Field(None, ge=1)  # for all converters of a node; None: 70 % of what it has

    @model_validator(mode="after")
    def _renewals_fit_the_lease(self) -> Self:
        # Two renewals may fail before the sweeper may take the job.
        if self.beat * 3 > self.lease:
            raise ValueError("PIXTOOLS_BEAT must be at most a third of PIXTOOLS_LEASE")
        return self

    @model_validator(mode="after")
    def _weights_are_known(self) -> Self:
        # The digest names the results: the same step with other weights is other work.
        if (self.denoise_weights is None) != (self.denoise_weights_sha256 is None):
            raise ValueError(
                "PIXTOOLS_DENOISE_WEIGHTS and PIXTOOLS_DENOISE_WEIGHTS_SHA256 go together: set both, or neither"
            )
        return self

    @property
    def weights_sha256(self) -> str:
        return self.denoise_weights_sha256 or SHIPPED_SHA256

    def image_limits(self) -> Limits:
        return Limits(self.max_pixels, self.max_side, self.max_frames)

    def part_limits(self) -> Limits:
        return Limits(min(self.max_part_pixels, self.max_pixels), self.max_side, self.max_frames)
