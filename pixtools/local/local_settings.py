"""The settings of `pixtools up`: the home, the ports, and the URLs of servers that run already."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from pixtools.settings import EnvironmentSettings

_EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 (only compared; the default is another address)


class LocalSettings(EnvironmentSettings):
    """The settings that `pixtools up` reads from the environment.

    The environment variable `PIXTOOLS_<NAME>` sets the field `<name>`, but `RAY_ADDRESS` sets `ray_address`. If the URL
    of a server is set, `pixtools up` uses this server and does not start one. Raises ValidationError for a value that
    is not valid.
    """

    model_config = SettingsConfigDict(env_prefix="PIXTOOLS_", env_ignore_empty=True, frozen=True, validate_by_name=True)

    home: Path = Path(".pixtools")
    host: str = "127.0.0.1"  # the page and S3 listen on this address, because browsers use both
    allow_anonymous: bool = False  # whether `host` may be an address that other machines reach
    proxy: Literal["haproxy", "ray"] = "haproxy"  # the program that takes HTTP requests on the Ray head that we start
    port: int = Field(8000, ge=1, le=65535)
    dashboard_port: int = Field(8265, ge=1, le=65535)
    ray_client_port: int = Field(10001, ge=1, le=65535)
    s3_port: int = Field(9000, ge=1, le=65535)
    s3_bucket: str = "pixtools"

    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    s3_endpoint_url: str | None = None
    s3_public_url: str | None = None
    ray_address: str | None = Field(None, validation_alias="RAY_ADDRESS")

    @property
    def reachable_host(self) -> str:
        """The address at which programs on this machine reach a server that listens on `host`."""
        return "127.0.0.1" if self.host == _EVERY_INTERFACE else self.host

    @property
    def page_url(self) -> str:
        """The URL of the page on this machine."""
        return f"http://{self.reachable_host}:{self.port}"

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = Counter((self.port, self.dashboard_port, self.ray_client_port, self.s3_port))
        port, uses = ports.most_common(1)[0]
        if uses > 1:
            raise ValueError(
                f"port {port} is set more than once: PIXTOOLS_PORT, PIXTOOLS_DASHBOARD_PORT, "
                "PIXTOOLS_RAY_CLIENT_PORT and PIXTOOLS_S3_PORT must differ"
            )
        return self
