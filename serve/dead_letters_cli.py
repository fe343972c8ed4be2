"""The commands for dead letters. They use the HTTP API, so they work on every machine that reaches the service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
import httpx

from serve.problem_text import problem_text

_PATH = "/api/dead-letters"
_TIMEOUT_S = 60

_filter_options = [
    click.option("--job", help="Only dead letters of this job."),
    click.option("--op", help="Only dead letters whose step has this operation."),
    click.option("--code", help="Only dead letters with this error code, such as corrupt_image."),
]
_decision_options = [
    click.argument("ids", nargs=-1),
    *_filter_options,
    click.option("--all", "every", is_flag=True, help="All open dead letters."),
]


def _with(options: list[Callable[..., Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds `options` to a command. Several commands share these options."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group("dead-letters")
@click.option(
    "--url",
    envvar="PIXTOOLS_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The address of the service. The variable PIXTOOLS_URL also sets this address.",
)
@click.pass_context
def dead_letters(context: click.Context, url: str) -> None:
    """List, redrive or discard dead letters."""
    context.obj = context.with_resource(httpx.Client(base_url=url, timeout=_TIMEOUT_S))


@dead_letters.command("list")
@_with(_filter_options)
@click.option(
    "--state",
    help="Only dead letters in this state: waiting, redriving, redriven or discarded. Default: waiting and redriving.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print each dead letter as one line of JSON, with its complete error and history.",
)
@click.pass_obj
def list_(api: httpx.Client, /, *, as_json: bool, **filters: str | None) -> None:
    """List dead letters, newest first."""
    number = 0
    for letter in _pages(api, {name: value for name, value in filters.items() if value}):
        number += 1
        click.echo(json.dumps(letter, ensure_ascii=False) if as_json else _line(letter))
    if not number and not as_json:
        click.echo("No dead letters found.")


@dead_letters.command()
@_with(_decision_options)
@click.pass_obj
def redrive(api: httpx.Client, /, ids: tuple[str, ...], *, every: bool, **filters: str | None) -> None:
    """Run failed steps and send failed webhooks again. Select by ids, by options, or with --all."""
    selection = _selection(ids, filters, every=every)
    if selection is None:
        number = sum(_send(api, "POST", f"/{letter}/redrive").json()["dead_letters"] for letter in ids)
    else:
        number = _send(api, "POST", "/redrive", selection).json()["dead_letters"]
    click.echo(f"To be redriven: {number}.")


@dead_letters.command()
@_with(_decision_options)
@click.pass_obj
def discard(api: httpx.Client, /, ids: tuple[str, ...], *, every: bool, **filters: str | None) -> None:
    """Discard dead letters. Select them by ids, by options, or with --all."""
    selection = _selection(ids, filters, every=every)
    if selection is None:
        number = sum(_send(api, "DELETE", f"/{letter}").is_success for letter in ids)
    else:
        number = _send(api, "POST", "/discard", selection).json()["dead_letters"]
    click.echo(f"Discarded: {number}.")


def _selection(ids: tuple[str, ...], filters: dict[str, str | None], *, every: bool) -> dict[str, Any] | None:
    """Return the request body that selects dead letters, or None if the user gave ids.

    Raises UsageError unless the user gave exactly one of these three: ids, filters, or --all.
    """
    body: dict[str, Any] = {name: value for name, value in filters.items() if value}
    if sum(map(bool, (ids, body, every))) != 1:
        raise click.UsageError(
            "Select dead letters by ids, by one or more of --job, --op and --code, or with --all. "
            "Use only one of these three ways."
        )
    if ids:
        return None
    return body or {"all": True}


def _pages(api: httpx.Client, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    while True:
        page = _send(api, "GET", "", query=query | {"limit": "100"}).json()
        yield from page["dead_letters"]
        if page["next"] is None:
            return
        query |= {"cursor": page["next"]}


def _send(
    api: httpx.Client,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    query: dict[str, str] | None = None,
) -> httpx.Response:
    """Send one request. Raises ClickException if the service does not answer, or answers with a problem."""
    try:
        response = api.request(method, _PATH + path, json=body, params=query)
    except httpx.TransportError as error:
        raise click.ClickException(
            f"{api.base_url} does not answer: {error}. Set the address of the service with "
            "`pixtools dead-letters --url http://…` or with the variable PIXTOOLS_URL."
        ) from error
    if not response.is_success:
        raise click.ClickException(problem_text(response))
    return response


def _line(letter: dict[str, Any]) -> str:
    at, error = letter["created_at"][:19], letter["error"]["detail"]
    return f"{letter['id']}  {at}Z  {letter['state']:<9}  {letter['source_name']}, {_subject(letter)}\n    {error}"


def _subject(letter: dict[str, Any]) -> str:
    if letter["kind"] == "delivery":
        return f"webhook to {letter['url']}"
    tries = sum(event["what"] in ("failed", "crashed", "lost") for event in letter["history"])
    return f"step {letter['step']} ({letter['op']}), tries: {tries}"
