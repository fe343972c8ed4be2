"""A cluster of several nodes: work spreads, nodes join, leave and fail, and a new version replaces an old one."""

from __future__ import annotations

import copy
import io
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from api import Api
from audit import Audit
from nodes import BIN, CONFIG, Nodes, cpu_seconds, running
from PIL import Image
from waits import wait_for
from workload import Workload, one_avif, titled

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

_ATTEMPTS = """
    SELECT extract(epoch FROM min(at) - %(at)s)::float FROM faults.step_move
    WHERE became = 'running' AND attempt > 1 AND at > %(at)s GROUP BY job
"""
REPLICA = "ServeReplica:denoiser:Denoiser"
_CRASHED = "SELECT count(*) FROM faults.job_move WHERE crashed AND at > %s"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head without work, and two nodes with one CPU each."""
    with running(2, PIXTOOLS_CONVERTER_IDLE="5", PIXTOOLS_MIN_CONVERTERS="0", PIXTOOLS_DENOISE_THREADS="1") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def audit(nodes: Nodes) -> Iterator[Audit]:
    with Audit(nodes.env["PIXTOOLS_DATABASE_URL"]) as audit:
        yield audit


def test_work_spreads_over_the_nodes_and_the_head_gets_none(nodes, audit):
    before = [cpu_seconds(host, "ray::ConverterActor") for host in nodes.workers]
    with Workload(nodes, audit, jobs=40, clients=8, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 10)
        assert set(nodes.actors("ConverterActor")) == {host.address for host in nodes.workers}
        for kind in ("DispatcherActor", "SweeperActor", "DeadLetterQueueActor"):
            assert nodes.actors(kind) == {nodes.head.address: 1}
        spent = [cpu_seconds(host, "ray::ConverterActor") for host in nodes.workers]
        report = work.finish("40 jobs on two nodes")

    assert report.clean
    spent = [now - was for now, was in zip(spent, before, strict=True)]
    print("  CPU seconds of the converters of each node:", np.round(spent, 1))
    assert min(spent) > max(spent) / 4


def test_converters_end_when_there_is_no_work(nodes):
    wait_for(lambda: not nodes.actors("ConverterActor"), 60)


def test_pixels_on_the_way_to_the_denoiser_do_not_pass_through_the_node_of_the_dispatcher(nodes):
    noisy = np.random.default_rng(3).normal(128, 20, (1000, 1500, 3)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=80)
    steps = {
        "clean": {"op": "denoise", "input": "source", "noise": "any"},
        "web": {"op": "webp", "input": "clean", "quality": 50},
    }
    with Api(nodes.base_url) as api:
        for title in ("first", "second"):  # the denoiser starts with the first job
            before = nodes.head.traffic()
            job = api.wait(api.submit("noisy.jpg", titled(out.getvalue(), title), steps), 300)
            passed = nodes.head.traffic() - before
            assert job["state"] == "succeeded", job

    print(f"  {passed / 1e6:.2f} MB through the head, with {out.tell() / 1e6:.2f} MB of the source twice")
    assert passed < 2 * out.tell() + 3_000_000  # the pixels take 4.5 MB, or 9 MB with 16 bits, once in each direction


def test_a_node_that_joins_is_used_and_a_drained_one_becomes_empty_and_leaves(nodes, audit):
    with Workload(nodes, audit, jobs=100, clients=8, steps=one_avif(5)) as work:
        work.wait_until(("succeeded",), 5)
        third = nodes.add()
        wait_for(lambda: nodes.actors("ConverterActor")[third.address] == 1, 60)
        done = work.count("succeeded")
        work.wait_until(("succeeded",), done + 10)

        log = nodes.folder / "drain.log"
        began = time.monotonic()
        third.run([BIN / "pixtools", "drain", "--here", "--timeout", "60"], nodes.env_of_commands, log)
        print(f"  the node was empty after {time.monotonic() - began:.1f} s")
        wait_for(lambda: nodes.actors("ConverterActor")[third.address] == 0, 10)  # Ray's list is a second behind
        wait_for(lambda: third.address not in {node["node_ip"] for node in nodes.alive()}, 90)
        nodes.workers.remove(third)
        report = work.finish("a node joins and leaves")

    assert report.clean
    assert audit.query(_CRASHED, [work.since])[0][0] == 0


def test_the_head_cannot_be_drained(nodes):
    log = nodes.folder / "drain-of-head.log"
    code = nodes.head.start([BIN / "pixtools", "drain", "--here"], nodes.env_of_commands, log).wait(60)

    assert code == 1
    assert "This node is the head, which cannot leave the cluster." in log.read_text()


@pytest.mark.parametrize("fault", ["kill", "cut"])
def test_a_worker_node_fails_in_the_middle_of_60_jobs(nodes, audit, fault):
    victim = nodes.workers[-1]
    with Workload(nodes, audit, jobs=60, clients=3, steps=one_avif(4)) as work:
        work.wait_until(("succeeded",), 10)
        wait_for(lambda: nodes.actors("ConverterActor")[victim.address] == 1)
        audit.wait("SELECT 1 FROM step WHERE state = 'running' HAVING count(*) >= 2")  # one on each node
        at = audit.now()
        getattr(victim, fault)()
        nodes.add()
        report = work.finish(f"60 jobs and a node that fails: {fault}")
    pauses = [pause for (pause,) in audit.query(_ATTEMPTS, {"at": at})]
    print(f"  {len(pauses)} next attempts after {np.round(sorted(pauses), 1)} s")
    victim.kill()
    nodes.workers.remove(victim)

    assert report.clean
    assert pauses
    assert np.percentile(pauses, 99) <= 60


def test_the_denoiser_scales_on_waiting_pixels_and_to_zero(nodes):
    """The node has two GPUs as far as Ray knows. Without a GPU that works, the denoiser computes on the CPU."""
    config = copy.deepcopy(CONFIG)
    denoiser = config["applications"][1]["deployments"][0]
    denoiser["ray_actor_options"] = {"num_cpus": 0, "num_gpus": 1}
    denoiser["autoscaling_config"] |= {"max_replicas": 2, "upscale_delay_s": 2}
    denoiser["autoscaling_config"]["policy"]["policy_kwargs"]["target_s"] = 10
    gpus = nodes.add(cpus=1, num_gpus=2)
    nodes.deploy(config=config)
    noisy = np.random.default_rng(7).normal(128, 20, (1200, 1600, 3)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=80)
    steps = {"clean": {"op": "denoise", "input": "source"}, "web": {"op": "webp", "input": "clean", "quality": 50}}

    def replicas():
        return nodes.actors(REPLICA)

    wait_for(lambda: not replicas(), 60)
    with Api(nodes.base_url) as api:
        api.submit("one.jpg", titled(out.getvalue(), "one"), steps)
        wait_for(lambda: replicas() == {gpus.address: 1}, 60)
        jobs = [api.submit(f"{n}.jpg", titled(out.getvalue(), f"picture {n}"), steps) for n in range(16)]
        began = time.monotonic()
        wait_for(lambda: replicas() == {gpus.address: 2}, 90)
        print(f"  a second replica after {time.monotonic() - began:.1f} s")
        assert {api.wait(job, 300)["state"] for job in jobs} == {"succeeded"}
    began = time.monotonic()
    wait_for(lambda: not replicas(), 120)
    print(f"  none after {time.monotonic() - began:.1f} s")
    nodes.deploy()
    gpus.kill()
    nodes.workers.remove(gpus)


class Steady:
    """A client that sends requests all the time, and counts the answers."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self._url = url
        self._stopped = threading.Event()

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                with httpx.Client(timeout=30) as http:  # a new connection each time
                    self.answers[str(http.get(self._url).status_code)] += 1
            except httpx.TransportError as error:
                self.answers[repr(error)] += 1


def test_a_new_version_replaces_the_old_one_under_load_and_back(nodes, audit):
    steady = Steady(f"{nodes.base_url}/api/operations")
    with steady.asking(), Workload(nodes, audit, jobs=80, clients=4, steps=one_avif(5), pause=0.3) as work:
        for version in ("new", "old"):
            work.wait_until(("succeeded",), work.count("succeeded") + 3)
            before = nodes.actors("DispatcherActor")
            # Each version of the settings counts as a version of the code: its actors have names of their own.
            nodes.deploy({"PIXTOOLS_POLL_INTERVAL": "0.9"} if version == "new" else {})
            assert nodes.actors("DispatcherActor").keys() == before.keys()
        report = work.finish("a new version and back")

    print("  answers:", dict(steady.answers), dict(work.answers))
    assert report.clean
    assert set(steady.answers) == {"200"}
    assert set(work.answers) == {"202"}
    assert audit.query(_CRASHED, [work.since])[0][0] == 0


def test_the_head_starts_again_and_jobs_go_on(nodes, audit):
    with Workload(nodes, audit, jobs=40, clients=3, steps=one_avif(4), pause=0.5, timeout=180) as work:
        work.wait_until(("succeeded",), 5)
        at = audit.now()
        nodes.head.kill()
        nodes.start_head()
        began = time.monotonic()
        report = work.finish("40 jobs, and the head starts again")
    pauses = [pause for (pause,) in audit.query(_ATTEMPTS, {"at": at})]
    print(f"  {len(pauses)} next attempts after {np.round(sorted(pauses), 1)} s")
    print(f"  all jobs ended {time.monotonic() - began:.0f} s after the head was back")
    assert report.clean
    assert pauses
    assert nodes.actors("DispatcherActor") == {nodes.head.address: 1}
