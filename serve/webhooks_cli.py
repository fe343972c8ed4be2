"""The command that receives webhooks on this machine, for the development of receivers."""

from __future__ import annotations

import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

from pixtools.webhooks.signing import is_secret, is_valid

_MAX_BODY_BYTES = 1_000_000
_LENGTH = re.compile("[0-9]{1,9}")
_TIMEOUT_S = 10.0


@click.group()
def webhooks() -> None:
    """Tools for the receivers of webhooks."""


@webhooks.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=9100, show_default=True, help="0: any free port.")
@click.option(
    "--secret",
    envvar="PIXTOOLS_WEBHOOK_SECRET",
    help="The secret of the endpoint (whsec_…). The variable PIXTOOLS_WEBHOOK_SECRET also sets it. Without it, "
    "signatures are not verified.",
)
@click.option("--status", type=click.IntRange(200, 599), default=204, show_default=True, help="The status to answer.")
def listen(port: int, secret: str | None, status: int) -> None:
    """Receive webhooks on 127.0.0.1, verify and print them, until Ctrl-C.

    The service sends webhooks to this machine only if PIXTOOLS_ALLOW_PRIVATE_WEBHOOKS is 1.
    """
    if secret is not None and not is_secret(secret):
        wrong = "It must be the secret of an endpoint: whsec_ and 44 characters."
        raise click.BadParameter(wrong, param_hint="--secret")
    try:
        server = _server(port, secret, status)
    except OSError as error:
        raise click.ClickException(
            f"Port {port} cannot be used: {error.strerror}. Choose another with --port."
        ) from error
    click.echo(f"Waiting for webhooks at http://127.0.0.1:{server.server_port}/ (Ctrl-C stops this).")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        click.echo("Stopped.")
    finally:
        server.server_close()


def _server(port: int, secret: str | None, status: int) -> ThreadingHTTPServer:
    class Receiver(BaseHTTPRequestHandler):
        timeout = _TIMEOUT_S

        def do_POST(self) -> None:
            """Print the event, and answer."""
            length = self.headers.get("content-length", "")
            if not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY_BYTES:
                self.send_error(413)
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            now = time.time()
            valid = None if secret is None else is_valid(headers, body, secret, now)
            click.echo(report(headers, body, now, valid=valid))
            self.send_response(401 if valid is False else status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is part of the interface)
            pass  # the report says more

    return ThreadingHTTPServer(("127.0.0.1", port), Receiver)


def report(headers: dict[str, str], body: bytes, now: float, *, valid: bool | None) -> str:
    """Return the text to print for a request: its time, its type, whether its signature is valid, and its body.

    `valid` is None if the signature was not verified.
    """
    try:
        message = json.loads(body)
        shown = json.dumps(message, indent=2, ensure_ascii=False)
        kind = message.get("type", "no type") if isinstance(message, dict) else "no type"
    except ValueError:
        kind, shown = "not JSON", body[:1_000].decode(errors="replace")
    verdict = {None: "not verified", True: "valid", False: "INVALID"}[valid]
    webhook_id = headers.get("webhook-id", "none")
    at = time.strftime("%H:%M:%S", time.localtime(now))
    return _printable(f"{at}  {kind}  signature: {verdict}  webhook-id: {webhook_id}\n{shown}\n")


def _printable(text: str) -> str:
    """Return the text with a question mark for each character that could control a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
