"""All errors of PixTools. They have one common base class.

Each class has an HTTP status and a stable code, and says whether the same call may succeed later. The docstring of the
class is the title of the problem that the API returns (RFC 9457). The details of an instance are positional arguments,
so the instance can be pickled and sent between Ray's processes. `database/outcome_recorder.py` reads `retryable` and
`outage` to decide whether a step is tried again.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

MAX_FAULTS = 100
"""The largest number of faults in a problem. Code that collects faults stops at this number."""

_MAX_QUOTED = 80  # characters of a text that a client chose, in a pointer or in a message
# The largest sizes in a problem, in bytes of JSON. With 100 faults, a problem stays below 64 kB (65,536 bytes).
_MAX_DETAIL_BYTES = 1_000
_MAX_POINTER_BYTES = 200
_MAX_FAULT_DETAIL_BYTES = 400


@dataclass(frozen=True)
class Fault:
    """One mistake in a request: an RFC 6901 pointer to it, and a sentence that says what is wrong and what to do."""

    pointer: str
    detail: str


class PixToolsError(Exception):
    """Something failed inside PixTools."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False  # whether a failed step is tried again, up to `max_attempts` tries
    outage: ClassVar[bool] = False  # a server is down or full: tries that fail with this error are not counted
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, detail: str = "", faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(detail, faults)
        self.detail = detail
        self.faults = faults

    def __str__(self) -> str:
        return "; ".join([self.detail, *(f"{fault.pointer}: {fault.detail}" for fault in self.faults)])

    @classmethod
    def title(cls) -> str:
        """Return the title of the problem: the first line of the docstring, without its full stop."""
        return (cls.__doc__ or "").split("\n", 1)[0].rstrip(".")

    def problem(self) -> dict[str, Any]:
        """Return the error as an RFC 9457 problem, which is smaller than 64 kB.

        Every problem of the service comes from this method. So neither a client nor a library can make a problem long:
        at most 100 faults are included, and long texts are cut.
        """
        return {
            "type": f"/problems/{self.code}",
            "title": self.title(),
            "status": self.status,
            "code": self.code,
            "detail": _bounded(self.detail, _MAX_DETAIL_BYTES) or self.title(),
            "errors": [
                {
                    "pointer": _bounded(fault.pointer, _MAX_POINTER_BYTES),
                    "detail": _bounded(fault.detail, _MAX_FAULT_DETAIL_BYTES),
                }
                for fault in self.faults[:MAX_FAULTS]
            ],
        }


class BadRequest(PixToolsError):
    """The request cannot be read."""

    status, code = 400, "bad_request"


class EmptyUpload(BadRequest):
    """The uploaded file is empty."""

    code = "empty_upload"


class NotFound(PixToolsError):
    """There is nothing at this address."""

    status, code = 404, "not_found"


class MethodNotAllowed(PixToolsError):
    """This address does not support this method."""

    status, code = 405, "method_not_allowed"


class ForeignOrigin(PixToolsError):
    """A page of another origin may not send this request."""

    status, code = 403, "foreign_origin"


class BodyTimedOut(PixToolsError):
    """The body of the request did not arrive in time."""

    status, code, retryable, retry_after_s = 408, "body_timed_out", True, 1


class BodyTooLarge(PixToolsError):
    """The body of the request is larger than this address accepts."""

    status, code = 413, "body_too_large"


class UploadTooLarge(PixToolsError):
    """The upload is larger than this service accepts."""

    status, code = 413, "upload_too_large"


class HeadersTooLarge(PixToolsError):
    """The headers of the request are larger than this service accepts."""

    status, code = 431, "headers_too_large"


class UnsupportedType(PixToolsError):
    """The file is not an image of a supported type."""

    status, code = 415, "unsupported_type"


class ForeignHost(PixToolsError):
    """This service does not answer under the host name of the request."""

    status, code = 421, "foreign_host"


class InvalidRequest(PixToolsError):
    """The request has fields that are missing, unknown or out of range."""

    status, code = 422, "invalid_request"


class InvalidPlan(PixToolsError):
    """The steps do not make a plan that can run."""

    status, code = 422, "invalid_plan"


class ImageTooLarge(PixToolsError):
    """The image has more pixels, longer sides or more frames than this service accepts."""

    status, code = 422, "image_too_large"


class CorruptImage(PixToolsError):
    """The image is damaged or incomplete and cannot be decoded."""

    status, code = 422, "corrupt_image"


class UnencodableImage(PixToolsError):
    """The picture cannot be encoded in the requested format."""

    status, code = 422, "unencodable_image"


class GoalOutOfReach(PixToolsError):
    """The result cannot be made as small as requested."""

    status, code = 422, "goal_out_of_reach"


class KeyReused(PixToolsError):
    """This Idempotency-Key was used before with a different request."""

    status, code = 422, "idempotency_key_reused"


class KeyInUse(PixToolsError):
    """A request with this Idempotency-Key is still being accepted."""

    status, code, retryable, retry_after_s = 409, "idempotency_key_in_use", True, 1


class JobEnded(PixToolsError):
    """The job has ended already."""

    status, code = 409, "job_ended"


class JobNotEnded(PixToolsError):
    """The job has not ended yet."""

    status, code = 409, "job_not_ended"


class NoFiles(PixToolsError):
    """The job has no files."""

    status, code = 409, "no_files"


class ArchiveNotReady(PixToolsError):
    """The archive of the job is still being made."""

    status, code, retryable, retry_after_s = 503, "archive_not_ready", True, 2


class NothingToRetry(PixToolsError):
    """This job has no failed step that can run again."""

    status, code = 409, "nothing_to_retry"


class DeadLetterClosed(PixToolsError):
    """The dead letter was redriven or discarded before."""

    status, code = 409, "dead_letter_closed"


class DatabaseDown(PixToolsError):
    """The database did not answer; the same call may succeed later."""

    status, code, retryable, outage, retry_after_s = 503, "database_down", True, True, 5


class StorageDown(PixToolsError):
    """Object storage did not answer; the same call may succeed later."""

    status, code, retryable, outage, retry_after_s = 503, "storage_down", True, True, 5


class StorageRefused(PixToolsError):
    """Object storage refused the call: check its credentials, its bucket and the clock."""

    status, code, retryable, retry_after_s = 500, "storage_refused", True, 60


class ObjectMissing(PixToolsError):
    """A file that the step reads is not in object storage."""

    status, code, retryable, retry_after_s = 500, "object_missing", True, 5


class ArtifactLost(PixToolsError):
    """The file of this step was lost from object storage."""

    status, code = 410, "artifact_lost"


class QueueDown(PixToolsError):
    """The dead-letter queue did not answer; the same call may succeed later."""

    status, code, retryable, retry_after_s = 503, "dead_letter_queue_down", True, 5


class DiskFull(PixToolsError):
    """The disk of the service is full."""

    status, code, retryable, retry_after_s = 503, "disk_full", True, 60


class TooManyStreams(PixToolsError):
    """This process cannot serve more event streams."""

    status, code, retryable, retry_after_s = 503, "too_many_streams", True, 5


class ServiceFull(PixToolsError):
    """The service has too much work or too little free space to accept a new job."""

    status, code, retryable, retry_after_s = 503, "service_full", True, 10


class TooManyRequests(PixToolsError):
    """This client has too many open requests."""

    status, code, retryable, retry_after_s = 429, "too_many_requests", True, 1


class TooManyRefusals(PixToolsError):
    """Too many submissions of this client were refused."""

    status, code, retryable, retry_after_s = 429, "too_many_refusals", True, 60


class Overloaded(PixToolsError):
    """The service has more requests than it can accept now."""

    status, code, retryable, retry_after_s = 503, "overloaded", True, 2


class NotReady(PixToolsError):
    """The service cannot accept jobs now."""

    status, code, retryable, retry_after_s = 503, "not_ready", True, 5


class StepTimedOut(PixToolsError):
    """The step exceeded its deadline and was stopped."""

    status, code = 504, "step_timed_out"


class JobTimedOut(PixToolsError):
    """The steps of the job took too long together, and the remaining steps were stopped."""

    status, code = 504, "job_timed_out"


class ResultsTooLarge(PixToolsError):
    """The files of the job take more space together than a job may use."""

    status, code = 422, "results_too_large"


class OutOfMemory(PixToolsError):
    """The step needs more memory than a converter may use."""

    status, code = 422, "out_of_memory"


class ConverterCrashed(PixToolsError):
    """The process that ran the step died too many times."""

    status, code = 500, "converter_crashed"


class DispatcherLost(PixToolsError):
    """The process that ran the job died too many times."""

    status, code = 500, "dispatcher_lost"


class DenoiserDown(PixToolsError):
    """No denoiser could finish the picture; the same step may succeed later."""

    status, code, retryable, retry_after_s = 503, "denoiser_down", True, 5


class DenoiserBusy(PixToolsError):
    """All denoisers are busy; the step is tried again later."""

    status, code, retryable, outage, retry_after_s = 503, "denoiser_busy", True, True, 5


class WeightsUnusable(PixToolsError):
    """The weights file of the denoiser is damaged, or this denoiser cannot use it."""

    status, code = 500, "weights_unusable"


class DeviceMissing(PixToolsError):
    """The device that the denoiser is configured to use is not available."""

    status, code = 500, "device_missing"


class OutboundError(PixToolsError):
    """A request to a server outside of this service failed."""

    status, code, retryable = 502, "outbound_failed", True
    retry_after_s: ClassVar[int | None] = 5


class HostNotResolved(OutboundError):
    """The name of the host has no address."""

    code = "host_not_resolved"


class AddressBlocked(OutboundError):
    """The host has an address to which this service does not connect."""

    status, code, retryable, retry_after_s = 422, "address_blocked", False, None


class ConnectionFailed(OutboundError):
    """The server refused or cut the connection."""

    code = "connection_failed"


class TlsFailed(OutboundError):
    """No secure connection to the server could be made."""

    code = "tls_failed"


class AnswerTimedOut(OutboundError):
    """The server did not answer in time."""

    status, code = 504, "answer_timed_out"


class AnswerTooLarge(OutboundError):
    """The headers of the answer of the server are too large."""

    code = "answer_too_large"


class AnswerMalformed(OutboundError):
    """The answer of the server is not valid HTTP."""

    code = "answer_malformed"


class WebhooksOff(PixToolsError):
    """This service has no key that encrypts the secrets of webhooks."""

    status, code = 503, "webhooks_off"


class WebhookSecretUnreadable(PixToolsError):
    """The secret of a webhook was encrypted with a key that this service does not have."""

    code = "webhook_secret_unreadable"


class TooManyEndpoints(PixToolsError):
    """There are too many webhook endpoints."""

    status, code = 409, "too_many_endpoints"


class DeliveryFailed(PixToolsError):
    """The receiver of a webhook did not accept the event."""

    status, code = 502, "delivery_failed"


class DeliveryPending(PixToolsError):
    """The delivery cannot be sent again in its present state."""

    status, code = 409, "delivery_pending"


class LeaseLost(PixToolsError):
    """Another attempt owns the job now; the results of this attempt are discarded."""

    code = "lease_lost"


def error_class(code: str) -> type[PixToolsError] | None:
    """Return the class of errors with this code, or None if there is no such class."""
    return next((kind for kind in _classes(PixToolsError) if kind.code == code), None)


def _classes(top: type[PixToolsError]) -> Iterator[type[PixToolsError]]:
    """Yield a class of the error tree and all classes below it."""
    yield top
    for below in top.__subclasses__():
        yield from _classes(below)


def is_full(error: OSError) -> bool:
    """Return whether the error means that a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _bounded(text: str, max_bytes: int) -> str:
    """Return `text` as Postgres can store it, cut so that it has at most `max_bytes` bytes in JSON."""
    cut = _storable(text[: max_bytes + 1])  # each character has at least one byte
    if _json_bytes(cut) <= max_bytes:
        return cut
    room = max_bytes - len("…".encode())
    while (size := _json_bytes(cut)) > room:
        cut = cut[: len(cut) * room // size]
    return f"{cut}…"


def _json_bytes(text: str) -> int:
    """Return the size of a text in JSON, without its quotation marks."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _storable(text: str) -> str:
    """Replace NULs and unpaired surrogates, because Postgres cannot store them."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def shortened(text: str, most: int = _MAX_QUOTED) -> str:
    """Return `text`, cut to `most` characters. Use this for each text that a client chose and a message quotes."""
    return text if len(text) <= most else f"{text[:most]}…"


def pointer(*parts: str | int) -> str:
    """Return the JSON pointer (RFC 6901) that consists of `parts`. Each part is cut to 80 characters."""
    return "".join("/" + shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in parts)
