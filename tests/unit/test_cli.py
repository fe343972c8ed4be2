"""The options of `pixtools`, parsed as the command line parses them."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest

from serve.cli import drain


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("PIXTOOLS_DRAIN", "PIXTOOLS_DRAIN_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def timeout_of(*arguments: str) -> timedelta:
    return drain.make_context("drain", list(arguments)).params["timeout"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0", 0), ("2.5", 2.5), (".5", 0.5), ("1e1", 10), ("PT30S", 30), ("PT2M", 120), ("P1D", 86_400)],
)
@pytest.mark.parametrize("option", ["--timeout", "--patience"])
def test_the_drain_timeout_is_given_in_seconds_or_in_iso_8601(option, text, seconds):
    assert timeout_of(option, text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("variable", ["PIXTOOLS_DRAIN", "PIXTOOLS_DRAIN_TIMEOUT"])
@pytest.mark.parametrize(("text", "seconds"), [("PT30S", 30), ("45", 45), ("", 20)])
def test_the_environment_sets_the_drain_timeout_as_it_does_for_the_service(monkeypatch, variable, text, seconds):
    monkeypatch.setenv(variable, text)

    assert timeout_of() == timedelta(seconds=seconds)


def test_the_newer_variable_wins_over_the_older_one_and_the_option_over_both(monkeypatch):
    monkeypatch.setenv("PIXTOOLS_DRAIN", "10")
    monkeypatch.setenv("PIXTOOLS_DRAIN_TIMEOUT", "PT11S")

    assert timeout_of() == timedelta(seconds=11)
    assert timeout_of("--timeout", "12") == timedelta(seconds=12)


def test_without_a_setting_the_drain_timeout_is_that_of_the_service():
    assert timeout_of() == timedelta(seconds=20)


@pytest.mark.parametrize("text", ["soon", "-5", "PT", "nan", "inf"])
def test_a_drain_timeout_that_is_not_valid_is_a_usage_error(text):
    with pytest.raises(click.BadParameter) as error:
        timeout_of(f"--timeout={text}")

    assert text in error.value.format_message()
