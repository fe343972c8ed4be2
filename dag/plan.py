"""The plan: validated steps in running order. A plan is plain data and uses neither Ray nor storage."""

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
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import AnyOperation, DataKind, Inference
from pixtools.operations.base.params import Params

SOURCE = "source"
"""The name under which steps read the source."""

MAX_NAME_LENGTH = 64
"""The largest number of characters in the name of a step or of a part."""

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_NAME_LENGTH - 1}}}")
"""Matches the name of a step or of a part."""


@dataclass(frozen=True)
class PartInfo:
    """What planning needs to know about a part. `size` is the size of the upright picture, in pixels."""

    sha256: str
    size: Size
    frames: int = 1
    media_type: str | None = None  # None: unknown, so any type is possible
    bytes: int = 0


@dataclass(frozen=True)
class Source:
    """What planning needs to know about the source.

    `name` is the file name. `size` is the size of the upright picture, in pixels.
    """

    name: str
    sha256: str
    size: Size
    frames: int = 1
    parts: Mapping[str, PartInfo] = field(default_factory=dict)  # by name
    media_type: str | None = None  # None: unknown, so any type is possible


@dataclass(frozen=True)
class PlannedStep:
    """One operation with its parameters and inputs. `key` is the step key and identifies the result across jobs.

    `size_in` is the size of the picture that the step reads. `size` is the size of the picture that the step makes or
    encodes. Both are None if the step handles no pixels.
    """

    name: str
    operation: AnyOperation
    params: Params
    inputs: tuple[str, ...]
    leaves_file: bool
    file_name: str
    key: str
    size_in: Size | None = None
    size: Size | None = None

    @property
    def makes_pixels(self) -> bool:
        """Whether the result is pixels that other steps can read."""
        return self.operation.makes is DataKind.PIXELS

    @property
    def reads_pixels(self) -> bool:
        """Whether the step reads pixels, not a file."""
        return self.operation.reads is DataKind.PIXELS

    @property
    def reads_source_pixels(self) -> bool:
        """Whether the step reads the pixels of the source."""
        return self.reads_pixels and self.inputs == (SOURCE,)


@dataclass(frozen=True)
class Plan:
    """The source and the steps of one job. Each step comes after all of its inputs."""

    source: Source
    steps: tuple[PlannedStep, ...]

    @cached_property
    def by_name(self) -> dict[str, PlannedStep]:
        """The steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def pixel_readers(self) -> dict[str, tuple[str, ...]]:
        """For each step, the steps that read its pixels. Bundles are excluded, because they read files."""
        readers: dict[str, list[str]] = {step.name: [] for step in self.steps}
        for step in self.steps:
            if step.reads_pixels and step.inputs != (SOURCE,):
                readers[step.inputs[0]].append(step.name)  # a step that reads pixels has one input
        return {name: tuple(names) for name, names in readers.items()}

    @property
    def work_pixels(self) -> int:
        """The pixels of the source and of the picture of each step together. All frames count."""
        width, height = self.source.size
        return width * height * self.source.frames + sum(self.pixels_of(step) for step in self.steps)

    def frames_of(self, step: PlannedStep) -> int:
        """Return the number of frames that a step makes or encodes."""
        frames = self.source.frames
        return step.params.frame_count(frames) if isinstance(step.params, EncodeParams) else frames

    def pixels_of(self, step: PlannedStep) -> int:
        """Return the pixels of all frames that a step makes or encodes. Return 0 if the step handles no pixels."""
        width, height = step.size or (0, 0)
        return width * height * self.frames_of(step)

    def waiting_for(self, name: str, open_steps: frozenset[str]) -> frozenset[str]:
        """Return the steps of `open_steps` that need the pixels of step `name`, directly or through other steps.

        On each path from `name`, return only the first open step.
        """
        found: set[str] = set()
        passed = [name]
        while passed:
            for reader in self.pixel_readers[passed.pop()]:
                if reader in open_steps:
                    found.add(reader)
                else:
                    passed.append(reader)
        return frozenset(found)

    def work(self, done: frozenset[str], held: frozenset[str], filed: frozenset[str] = frozenset()) -> frozenset[str]:
        """Return the steps that still have to run.

        Steps in `done` have their result. Steps in `held` get no result, and the steps that read them do not run. Steps
        in `filed` have a stored file.

        A step in `done` runs again if a step that has to run needs its pixels. An inference in `filed` does not run
        again, because its pixels can be read from its file.
        """
        blocked: set[str] = set()
        for step in self.steps:
            if step.name not in done and (step.name in held or blocked.intersection(step.inputs)):
                blocked.add(step.name)
        needed: set[str] = set()
        for step in reversed(self.steps):
            file_missing = step.leaves_file and step.name not in done and step.name not in blocked
            pixels_in_file = step.name in filed and isinstance(step.operation, Inference)
            if file_missing or (not pixels_in_file and needed.intersection(self.pixel_readers[step.name])):
                needed.add(step.name)
        return frozenset(needed)


def running_order(inputs: dict[str, tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Return the names of the steps in running order, and the cycles among the steps that have no running order.

    `inputs` holds, by the name of each step, the names of the steps that it reads. In running order, each step follows
    the steps that it reads. Steps that are ready at the same time keep their given order. A cycle begins and ends with
    the same name.
    """
    readers: dict[str, list[str]] = {name: [] for name in inputs}
    unordered = {name: set(reads) for name, reads in inputs.items()}  # the inputs that are not in the order yet
    for name, reads in unordered.items():
        for read in reads:
            readers[read].append(name)
    position = {name: index for index, name in enumerate(inputs)}
    ordered: list[str] = []
    ready = [name for name, reads in unordered.items() if not reads]
    while ready:
        ordered += ready
        made_ready = []
        for name in ready:
            del unordered[name]
            for reader in readers[name]:
                unordered[reader].remove(name)
                if not unordered[reader]:
                    made_ready.append(reader)
        ready = sorted(made_ready, key=position.__getitem__)
    return ordered, _cycles({name: inputs[name] for name in unordered})


def _cycles(waiting: dict[str, tuple[str, ...]]) -> list[list[str]]:
    cycles: list[list[str]] = []
    seen: set[str] = set()
    for start in waiting:
        path: dict[str, None] = {}  # in the order of the walk
        name = start
        # Each name in `waiting` reads a name in `waiting`, so a walk along the inputs ends in a cycle.
        while name not in path and name not in seen:
            path[name] = None
            name = next(read for read in waiting[name] if read in waiting)
        if name in path:
            names = list(path)
            cycles.append([*names[names.index(name) :], name])
        seen.update(path)
    return cycles


def step_key(
    operation: AnyOperation, params: Params, input_keys: list[str], entries: list[str], others: list[str],
) -> str:  # fmt: skip
    """Return the step key: a SHA-256 digest of everything that decides the result of a step.

    `entries` are the file names that a bundle writes into its result. Other operations have no entries. `others` are
    the digests of the parts and of the network's weights, if the operation uses them.
    """
    identity = [operation.name, operation.version, CODECS, params.identity(), input_keys, entries, others]
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_name(source: str, step: str, extension: str) -> str:
    """Return the download name of a step's file: the stem of the source's file name, then the step's name."""
    return f"{PurePosixPath(source).stem or 'image'}-{step}.{extension}"
