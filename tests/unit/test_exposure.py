"""`pixtools up` refuses an address at which everyone could use the service."""

from __future__ import annotations

import pytest

from pixtools.local import exposure, target
from pixtools.local.addresses import is_loopback
from pixtools.local.local_error import LocalError
from pixtools.local.local_settings import LocalSettings

CLUSTER = "http://127.0.0.1:8265"


def check(config: dict | None = None, **fields: object) -> None:
    """Check the addresses as `pixtools up` does before it starts anything."""
    settings = LocalSettings(**fields)
    exposure.check(settings, target.listening(config or {}, settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost"])
def test_a_loopback_address_is_recognized(host):
    assert is_loopback(host)


PUBLIC = ["0.0.0.0", "::", "192.0.2.7", "fd00::2", "pixtools.example", "localhost.example", "", "127.1", "*"]


@pytest.mark.parametrize("host", PUBLIC)
def test_every_other_address_and_name_may_be_reached_by_others(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_a_host_that_others_reach_is_refused_with_the_reason_and_the_remedies(host):
    with pytest.raises(LocalError) as refusal:
        check(host=host)

    for words in (f"PIXTOOLS_HOST={host}", "no API keys", "reverse proxy", "PIXTOOLS_ALLOW_ANONYMOUS=1"):
        assert words in str(refusal.value)


def test_anonymous_use_can_be_allowed_by_a_variable(monkeypatch):
    check(host="0.0.0.0", allow_anonymous=True)

    monkeypatch.setenv("PIXTOOLS_ALLOW_ANONYMOUS", "1")
    check(host="0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_a_loopback_host_is_accepted(host):
    check(host=host)
    check()


@pytest.mark.parametrize(("host", "allowed"), [("::1", False), ("::", True)])
def test_an_ipv6_host_is_refused_because_browsers_would_show_no_pictures(host, allowed):
    with pytest.raises(LocalError, match=f"PIXTOOLS_HOST={host} is an IPv6 address.*use 127.0.0.1"):
        check(host=host, allow_anonymous=allowed)


@pytest.mark.parametrize("config", [{}, {"http_options": None}, {"http_options": {"host": "0.0.0.0", "port": 80}}])
def test_on_an_existing_cluster_the_address_of_the_serve_configuration_counts(config):
    with pytest.raises(LocalError, match=r"address 0\.0\.0\.0 in http_options\.host of the Serve configuration"):
        check(config, ray_address=CLUSTER)

    check(config, ray_address=CLUSTER, allow_anonymous=True)
    check(config, ray_address=CLUSTER, host="127.0.0.1")  # replaces the address of the configuration
    check(config)  # a new Ray head always listens on our own address
    check({"http_options": {"host": "127.0.0.1"}}, ray_address=CLUSTER)
