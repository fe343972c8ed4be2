"""Makes the bodies of webhooks, with fresh download URLs where the receiver wants them."""

from __future__ import annotations

from dataclasses import dataclass

from dag.downloads import download
from dag.process_form import is_result
from pixtools.blob_store import BlobStore
from pixtools.database.endpoint_store import EndpointStore
from pixtools.database.job_store import JobStore
from pixtools.errors import NotFound
from pixtools.jobs.process_status import process_status
from pixtools.jobs.views import JobView
from pixtools.webhooks import signing
from pixtools.webhooks.events import body, process_body
from pixtools.webhooks.records import ClaimedDelivery
from pixtools.webhooks.vault import Vault


@dataclass(frozen=True)
class WebhookBodies:
    """Makes the bodies of deliveries, and reads their secrets."""

    jobs: JobStore
    endpoints: EndpointStore
    blobs: BlobStore
    vault: Vault

    def needs_database(self, claimed: ClaimedDelivery) -> bool:
        """Return whether `of` waits for the database. If it does, call `of` in a thread."""
        return not claimed.secrets or _has_urls(claimed)

    def of(self, claimed: ClaimedDelivery) -> tuple[bytes, list[str]]:
        """Return the body of a delivery, and the secrets for its signatures.

        Raises DatabaseDown, StorageRefused without credentials for download URLs, and the errors of Vault.
        """
        secrets = claimed.secrets or self.endpoints.secret_of_owner(
            claimed.owner, self.vault.encrypt(signing.new_secret())
        )
        return self._body(claimed), [self.vault.decrypt(secret) for secret in secrets]

    def _body(self, claimed: ClaimedDelivery) -> bytes:
        delivery = claimed.record
        view = self._view(claimed) if _has_urls(claimed) else None
        urls = {} if view is None else self._urls(view)
        if claimed.is_process and delivery.job_id is not None:
            status = process_status(delivery.event.job_state, webhook_failed=False)
            return process_body(delivery.job_id, status, urls)
        data = delivery.data | {"urls": urls} if claimed.include_urls else delivery.data
        return body(delivery.event, delivery.created_at, data)

    def _view(self, claimed: ClaimedDelivery) -> JobView | None:
        """Return the job of a delivery, or None if there is none."""
        if claimed.record.job_id is None:
            return None
        try:
            return self.jobs.get(claimed.owner, claimed.record.job_id)
        except NotFound:
            return None

    def _urls(self, view: JobView) -> dict[str, str]:
        """Return the download URLs of the files of a job. The keys are the names of the steps that made the files."""
        signed_at = self.blobs.signing_time()
        urls = {}
        for step in view.steps:
            artifact = view.artifacts.get(step.name)
            is_hidden = view.job.is_process and not is_result(step.name, step.op)
            if artifact is not None and artifact.lost_at is None and not is_hidden:
                urls[step.name] = download(self.blobs, view.job, step.name, step.op, artifact, signed_at).url
        return urls


def _has_urls(claimed: ClaimedDelivery) -> bool:
    return claimed.include_urls or claimed.is_process
