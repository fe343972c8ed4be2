"""Traces for OpenTelemetry: spans from the request that submits a job to its artifacts.

Nothing is traced until `start` is called with a URL. Then each process sends its spans to this URL by OTLP over HTTP
(https://opentelemetry.io/docs/specs/otlp). The parent of a span travels as `traceparent`, in the notation of W3C Trace
Context (https://www.w3.org/TR/trace-context). The last spans of a process that is killed are lost. OpenTelemetry also
reads its own environment variables, for example OTEL_TRACES_SAMPLER.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

_tracer: Any = None


def start(url: str | None, process: str) -> None:
    """Trace this process from now on, if `url` is set. `process` is its name in the traces.

    Raises ModuleNotFoundError, with the remedy, if OpenTelemetry's exporter is missing.
    """
    global _tracer  # noqa: PLW0603 (a process has one tracer)
    if url is None or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("PIXTOOLS_TRACES_URL needs: pip install 'pixtools[traces]'") from error
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=Resource.create({"service.name": "pixtools", "process.name": process}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
    _tracer = provider.get_tracer("pixtools")


class Span:
    """A running span. As a context manager, it ends with the block, and records an exception of the block.

    It never becomes the current span, so generators may use it.
    """

    def __init__(self, span: Any) -> None:
        """`span` is a span of OpenTelemetry, or None if this process is not traced."""
        self._span = span

    @property
    def traceparent(self) -> str | None:
        """The `traceparent` for child spans. None if this process is not traced."""
        if self._span is None:
            return None
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        return _traceparent(set_span_in_context(self._span))

    def as_ids(self) -> dict[str, str]:
        """Return the `traceparent` as an id for log lines and messages, or nothing."""
        return _as_ids(self.traceparent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._span is None:
            return
        if error is not None and not isinstance(error, GeneratorExit):
            self._span.record_exception(error)
        self._span.end()


def begin(name: str, parent: str | None, **attributes: str | int) -> Span:
    """Begin a span. `parent` is the `traceparent` of its parent, or None."""
    if _tracer is None:
        return Span(None)
    return Span(_tracer.start_span(name, _context(parent), attributes=attributes))


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int) -> Iterator[None]:
    """Trace a block as the current span. Without `parent`, the span around the block is the parent.

    Do not use this in generators.
    """
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, _context(parent) if parent else None, attributes=attributes):
        yield


def rename(name: str) -> None:
    """Give the current span another name."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415

        get_current_span().update_name(name)


def past(name: str, parent: str | None, seconds: float, **attributes: str | int) -> None:
    """Add a span that ends now and began `seconds` ago."""
    if _tracer is not None:
        end = time.time_ns()
        begun = _tracer.start_span(name, _context(parent), attributes=attributes, start_time=end - round(seconds * 1e9))
        begun.end(end)


def current() -> str | None:
    """Return the `traceparent` of the current span, or None."""
    return None if _tracer is None else _traceparent(None)


def as_ids() -> dict[str, str]:
    """Return the `traceparent` of the current span as an id for log lines and messages, or nothing."""
    return _as_ids(current())


def _as_ids(traceparent: str | None) -> dict[str, str]:
    return {} if traceparent is None else {"traceparent": traceparent}


def _context(parent: str | None) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    return TraceContextTextMapPropagator().extract({} if parent is None else {"traceparent": parent}, _empty())


def _empty() -> Any:
    from opentelemetry.context import Context  # noqa: PLC0415

    return Context()


def _traceparent(context: Any) -> str | None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return carrier.get("traceparent")
