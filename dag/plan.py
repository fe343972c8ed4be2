"""The plan: validated steps in running order. Plain data; it knows neither Ray nor storage."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

from pixtools.imaging.codecs import CODECS
from pixtools.imaging.picture import Size
from pixtools.operations.base.kinds import AnyOperation, Inference, Kind, Params

SOURCE = "source"


@dataclass(frozen=True)
class Part:
    """What a plan needs to know of a further file of the request."""

    sha256: str
    size: Size
    frames: int = 1
    media_type: str | None = None  # None: any
    bytes: int = 0


@dataclass(frozen=True)
class Source:
    """What a plan needs to know of the image that it starts from."""

    name: str
    sha256: str
    size: Size
    frames: int = 1
    parts: Mapping[str, Part] = field(default_factory=dict)  # by name
    media_type: str | None = None  # None: any


@dataclass(frozen=True)
class Step:
    """One operation with its parameters and what it reads; `key` names its result, whichever job makes it."""

    name: str
    operation: AnyOperation
    params: Params
    inputs: tuple[str, ...]
    leaves_file: bool
    file_name: str
    key: str
    # Of the pixels that it reads, and of those that it makes or encodes; None for what has to do with none.
    size_in: Size | None = None
    size: Size | None = None

    @property
    def makes_pixels(self) -> bool:
        return self.operation.makes is Kind.PIXELS

    @property
    def reads_pixels(self) -> bool:
        return self.operation.reads is Kind.PIXELS

    @property
    def reads_source_pixels(self) -> bool:
        return self.reads_pixels and self.inputs == (SOURCE,)


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each comes after all that it reads."""

    source: Source
    steps: tuple[Step, ...]

    @cached_property
    def by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}

    @cached_property
    def pixel_readers(self) -> dict[str, tuple[str, ...]]:
        """The steps that need the pixels of each step; a bundle of it needs only its file."""
        return {
            step.name: tuple(other.name for other in self.steps if other.reads_pixels and step.name in other.inputs)
            for step in self.steps
        }

    def waiting_for(self, name: str, open_steps: frozenset[str]) -> frozenset[str]:
        """Return those of `open_steps` that cannot go on without the pixels of a step, nearest first to need them."""
        found: set[str] = set()
        for reader in self.pixel_readers[name]:
            found |= {reader} if reader in open_steps else self.waiting_for(reader, open_steps)
        return frozenset(found)

    def work(self, done: frozenset[str], held: frozenset[str], filed: frozenset[str] = frozenset()) -> frozenset[str]:
        """Return the steps to run when those in `done` have their result and those in `held` will get none.

        A step runs for those that need its pixels: again, if an attempt ended early, and not at all if they are
        done. But those in `filed` have left a file, and one of an inference serves for its pixels.
        """
        blocked: set[str] = set()
        for step in self.steps:
            if step.name not in done and (step.name in held or blocked.intersection(step.inputs)):
                blocked.add(step.name)
        needed: set[str] = set()
        for step in reversed(self.steps):
            wanted = step.leaves_file and step.name not in done and step.name not in blocked
            served = step.name in filed and isinstance(step.operation, Inference)
            if wanted or (not served and needed.intersection(self.pixel_readers[step.name])):
                needed.add(step.name)
        return frozenset(needed)


def order(inputs: dict[str, tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Return names so that each follows its inputs, keeping their given order else; and the cycles left over."""
    waiting = dict(inputs)
    ordered: list[str] = []
    while ready := [name for name, reads in waiting.items() if not waiting.keys() & set(reads)]:
        ordered += ready
        for name in ready:
            del waiting[name]
    return ordered, _cycles(waiting)


def _cycles(waiting: dict[str, tuple[str, ...]]) -> list[list[str]]:
    cycles: list[list[str]] = []
    seen: set[str] = set()
    for start in waiting:
        path: list[str] = []
        name = start
        # Each step left over reads another one left over, so following them ends in a cycle.
        while name not in path and name not in seen:
            path.append(name)
            name = next(read for read in waiting[name] if read in waiting)
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        seen.update(path)
    return cycles


def step_key(
    operation: AnyOperation, params: Params, input_keys: list[str], entries: list[str], others: list[str],
) -> str:  # fmt: skip
    """Return the digest that names a step's result: the same work has the same key.

    `entries` are the file names that a bundle writes into its result, `others` the digests of what else takes part in
    it: further files of the request, the weights of a network; both are empty where there is nothing of the kind.
    """
    identity = [operation.name, operation.version, CODECS, params.identity(), input_keys, entries, others]
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_name(source: str, step: str, extension: str) -> str:
    """Return the name under which a step's file is downloaded, after that of the source."""
    return f"{PurePosixPath(source).stem or 'image'}-{step}.{extension}"


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
