"""Removes one guard from the job store of a service that starts with this folder on its PYTHONPATH.

Python imports a module named `sitecustomize` when it starts. The variable FAULTS_MUTATION is the path of a file that
contains the name of the missing guard. The file may change while the service runs. If the file is empty, no guard is
missing. The guards are:

    fence      outcomes are written only for the current attempt of a job
    renewal    dispatchers renew their leases
    rescue     jobs of lost dispatchers return to the queue
    key        Postgres stores the idempotency key of each job
    outbox     the transaction that ends a job writes its deliveries
    delivery fence  results are written only for the current attempt of a delivery
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path


class _Mutate(MetaPathFinder):
    def find_spec(self, name, path, target=None):  # noqa: ARG002 (part of the protocol)
        if name not in _MUTATIONS:
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_mutate(module):
            load(module)
            _MUTATIONS[name](module)

        spec.loader.exec_module = load_and_mutate
        return spec


def _mutate_job_store(module):
    _mutate_dispatching(module.JobStore)
    _mutate_submitting(module.JobStore, sys.modules["pixtools.jobs.submission"].Accepted)


def _mutate_dispatching(store):
    record, renew, rescue = store.record, store.renew, store.rescue

    def record_for_any_attempt(self, batches):
        if _is_missing("fence"):
            batches = [
                replace(batch, attempt=self.get("public", batch.job_id).job.attempt, number=None) for batch in batches
            ]
        return record(self, batches)

    def renew_nothing(self, held):
        if _is_missing("renewal"):
            return set(held)
        # If the fence is missing, a dispatcher must not notice a lost lease. Otherwise it may stop before it reports.
        return renew(self, held) | (set(held) if _is_missing("fence") else set())

    def rescue_nothing(self, dispatcher=None):
        return [] if _is_missing("rescue") else rescue(self, dispatcher)

    store.record, store.renew, store.rescue = record_for_any_attempt, renew_nothing, rescue_nothing


def _mutate_submitting(store, accepted):
    submit_once, stored_response = store.submit_once, store.stored_response

    def submit_without_the_key(self, new, idempotency, body):
        if _is_missing("key"):
            self.submit(new)
            return accepted(body, new.id, replayed=False)
        return submit_once(self, new, idempotency, body)

    def no_stored_response(self, scope):
        return None if _is_missing("key") else stored_response(self, scope)

    store.submit_once, store.stored_response = submit_without_the_key, no_stored_response


def _mutate_outbox(module):
    insert = module.insert_deliveries

    def insert_nothing(connection, rows):
        if not _is_missing("outbox"):
            insert(connection, rows)

    module.insert_deliveries = insert_nothing


def _mutate_deliveries(module):
    held, may_move = module._held, module.move_deliveries

    def any_attempt(delivery_id, attempt):
        return held(delivery_id, attempt)[:1] if _is_missing("delivery fence") else held(delivery_id, attempt)

    def move_from_any_state(connection, to, conditions, **values):
        if not _is_missing("delivery fence"):
            return may_move(connection, to, conditions, **values)
        from sqlalchemy import update  # noqa: PLC0415 (importing it in every process that starts would take long)

        return list(
            connection.scalars(
                update(module.Delivery).where(*conditions).values(state=to, **values).returning(module.Delivery.id)
            )
        )

    module._held, module.move_deliveries = any_attempt, move_from_any_state


def _is_missing(guard):
    return Path(os.environ["FAULTS_MUTATION"]).read_text() == guard


_MUTATIONS = {
    "pixtools.database.job_store": _mutate_job_store,
    "pixtools.database.outbox": _mutate_outbox,
    "pixtools.database.delivery_store": _mutate_deliveries,
}
sys.meta_path.insert(0, _Mutate())
