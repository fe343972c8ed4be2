"""Takes a guard away from the job store of a service that is started with this folder on its PYTHONPATH.

Python imports a module of this name by itself. Which guard is missing stands in the file that FAULTS_MUTATION names,
and may change while the service runs; without a word in it nothing is.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path


class _Mutate(MetaPathFinder):
    def find_spec(self, name, path, target=None):  # noqa: ARG002 (its place in the protocol)
        if name != "pixtools.database.job_store":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_mutate(module):
            load(module)
            _mutate(module.JobStore)

        spec.loader.exec_module = load_and_mutate
        return spec


def _mutate(store):
    record, renew, rescue, submit, replay = store.record, store.renew, store.rescue, store.submit, store.replay

    def record_whatever_the_attempt(self, job_id, attempt, *what, **how):
        if _is_missing("fence"):
            attempt = self.get("public", job_id).job.attempt
            how.pop("batch", None)
        return record(self, job_id, attempt, *what, **how)

    def renew_nothing(self, held, *rest, **how):
        return set(held) if _is_missing("renewal") else renew(self, held, *rest, **how)

    def rescue_nobody(self, *whose, **how):
        return [] if _is_missing("rescue") else rescue(self, *whose, **how)

    def submit_without_a_key(self, new, request, *rest, **how):
        return submit(self, new, None if _is_missing("key") else request, *rest, **how)

    def replay_nothing(self, request):
        return None if _is_missing("key") else replay(self, request)

    store.record, store.renew, store.rescue = record_whatever_the_attempt, renew_nothing, rescue_nobody
    store.submit, store.replay = submit_without_a_key, replay_nothing


def _is_missing(guard):
    return Path(os.environ["FAULTS_MUTATION"]).read_text() == guard


sys.meta_path.insert(0, _Mutate())
