"""The command line of dead letters, over the HTTP API: it works from wherever the service is reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
import httpx

_PATH = "/api/dead-letters"

_selection = [
    click.option("--job", help="Those of this job."),
    click.option("--op", help="Those whose step has this operation."),
    click.option("--code", help="Those with this error, such as corrupt_image."),
]
_decision = [
    click.argument("ids", nargs=-1),
    *_selection,
    click.option("--all", "every", is_flag=True, help="All that are open."),
]


def _with(options: list[Callable[..., Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give several commands the same options."""

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
    help="Where the service is; PIXTOOLS_URL sets it too.",
)
@click.pass_context
def dead_letters(context: click.Context, url: str) -> None:
    """Steps out of attempts: look at them, run them again, or discard them."""
    context.obj = context.with_resource(httpx.Client(base_url=url, timeout=60))


@dead_letters.command("list")
@_with(_selection)
@click.option("--state", help="waiting, redriving, redriven or discarded. Default: the first two.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with errors and histories in full.")
@click.pass_obj
def list_(api: httpx.Client, /, *, as_json: bool, **wanted: str | None) -> None:
    """List dead letters, newest first."""
    number = 0
    for letter in _pages(api, {name: value for name, value in wanted.items() if value}):
        number += 1
        click.echo(json.dumps(letter, ensure_ascii=False) if as_json else _line(letter))
    if not number and not as_json:
        click.echo("There are none.")


@dead_letters.command()
@_with(_decision)
@click.pass_obj
def redrive(api: httpx.Client, /, ids: tuple[str, ...], *, every: bool, **wanted: str | None) -> None:
    """Run steps again: by the ids of their dead letters, or all that are selected."""
    form = _form(ids, wanted, every=every)
    if form is None:
        number = sum(_ask(api, "POST", f"/{letter}/redrive").json()["dead_letters"] for letter in ids)
    else:
        number = _ask(api, "POST", "/redrive", form).json()["dead_letters"]
    click.echo(f"To be redriven: {number}.")


@dead_letters.command()
@_with(_decision)
@click.pass_obj
def discard(api: httpx.Client, /, ids: tuple[str, ...], *, every: bool, **wanted: str | None) -> None:
    """Accept failures: by the ids of their dead letters, or all that are selected."""
    form = _form(ids, wanted, every=every)
    if form is None:
        number = sum(_ask(api, "DELETE", f"/{letter}").is_success for letter in ids)
    else:
        number = _ask(api, "POST", "/discard", form).json()["dead_letters"]
    click.echo(f"Discarded: {number}.")


def _form(ids: tuple[str, ...], wanted: dict[str, str | None], *, every: bool) -> dict[str, Any] | None:
    """Return the selection that is asked for; None where the ids say it all."""
    form: dict[str, Any] = {name: value for name, value in wanted.items() if value}
    if sum(map(bool, (ids, form, every))) != 1:
        raise click.UsageError("Say which: ids, or some of --job, --op and --code, or --all; one of the three.")
    if ids:
        return None
    return form or {"all": True}


def _pages(api: httpx.Client, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    while True:
        page = _ask(api, "GET", "", query=query | {"limit": "100"}).json()
        yield from page["dead_letters"]
        if page["next"] is None:
            return
        query |= {"cursor": page["next"]}


def _ask(
    api: httpx.Client,
    method: str,
    path: str,
    form: dict[str, Any] | None = None,
    query: dict[str, str] | None = None,
) -> httpx.Response:
    try:
        answer = api.request(method, _PATH + path, json=form, params=query)
    except httpx.TransportError as error:
        raise click.ClickException(
            f"{api.base_url} does not answer: {error}. Say where the service is: pixtools dead-letters --url http://… "
            "or PIXTOOLS_URL."
        ) from error
    if not answer.is_success:
        raise click.ClickException(_problem(answer))
    return answer


def _problem(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return "; ".join(
            [problem["detail"], *(f"{fault['pointer']}: {fault['detail']}" for fault in problem["errors"])]
        )
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code}."


def _line(letter: dict[str, Any]) -> str:
    tries = sum(event["what"] in ("failed", "crashed", "lost") for event in letter["history"])
    at, error = letter["created_at"][:19], letter["error"]["detail"]
    what = f"{letter['source_name']}, step {letter['step']} ({letter['op']}), tries: {tries}"
    return f"{letter['id']}  {at}Z  {letter['state']:<9}  {what}\n    {error}"
