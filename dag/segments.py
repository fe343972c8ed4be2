"""Plan → segments: which steps one converter makes in one call.

Steps that share pixels stay in one process, where sharing costs nothing. When converters stand idle and the
picture is large, the work is split: the first segment decodes and hands its pixels on through shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dag.plan import SOURCE, Plan, Step
from pixtools.imaging.picture import megapixels
from pixtools.operations.base import Bundler, Encoder, Kind, PixelOperation

# Handing pixels to another process costs about 2 ms a megapixel; below this there is nothing to win.
_WORTH_SPLITTING_MS = 100.0


@dataclass(frozen=True)
class Segment:
    """Steps for one converter call, in running order.

    They read the source, or, where `bundles` is set, the artifacts of other steps once these are done.
    """

    steps: tuple[Step, ...]
    exports: bool = False  # hands the source's pixels to the segments that import them
    imports: bool = False  # takes them instead of decoding the source itself
    bundles: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)


@dataclass(frozen=True)
class Inputs:
    """What a job brought with it, in the blob store."""

    owner: str
    source_key: str
    source_bytes: int
    parts: Mapping[str, str] = field(default_factory=dict)  # keys of further files of the request, by name


@dataclass(frozen=True)
class Order:
    """What one converter call is asked to do."""

    segment: Segment
    inputs: Inputs
    entries: tuple[tuple[str, str], ...] = ()  # file name and blob key of what a bundle reads


@dataclass(frozen=True)
class Decoded:
    """A converter's word that it has the pixels; what goes wrong after it is a step's own doing.

    `pixels` refers to them in shared memory where the segment exports them.
    """

    pixels: Any = None


def segments(plan: Plan, work: frozenset[str], ways: int) -> tuple[Segment, ...]:
    """Share the steps of `work` among at most `ways` converters; bundles follow in segments of their own."""
    shares = _share(_branches(plan, work), ways)
    bundles = [step for step in plan.steps if step.name in work and reads_artifacts(step)]
    return (
        *(
            Segment(tuple(steps), exports=len(shares) > 1 and at == 0, imports=at > 0)
            for at, steps in enumerate(shares)
        ),
        *(Segment((step,), bundles=True) for step in bundles),
    )


def reads_artifacts(step: Step) -> bool:
    """Say whether a step reads files from storage, rather than what its segment has at hand."""
    return isinstance(step.operation, Bundler) or (step.operation.reads is Kind.FILE and step.inputs != (SOURCE,))


def _branches(plan: Plan, work: frozenset[str]) -> list[list[Step]]:
    """Return the work on the source as groups that share no pixels but the source's own."""
    branches: dict[str, list[Step]] = {}
    root: dict[str, str] = {}
    for step in plan.steps:
        if step.name not in work or reads_artifacts(step):
            continue
        read = step.inputs[0]
        root[step.name] = root.get(read, step.name)
        branches.setdefault(root[step.name], []).append(step)
    return list(branches.values())


def _share(branches: list[list[Step]], ways: int) -> list[list[Step]]:
    """Divide branches by longest processing time first; the first share, which decodes, gets all that reads files.

    Each share begins with its cheapest branch: a result that takes milliseconds does not wait for one of seconds.
    """
    weighed = sorted(((sum(map(_cost, branch)), branch) for branch in branches), key=lambda pair: -pair[0])
    shares: list[list[tuple[float, list[Step]]]] = []
    for cost, branch in weighed:
        lightest = min(shares, key=_total, default=None)
        if lightest is None or (len(shares) < ways and min(cost, _total(lightest)) >= _WORTH_SPLITTING_MS):
            shares.append([(cost, branch)])
        else:
            (lightest if cost else shares[0]).append((cost, branch))
    return [[step for _, branch in sorted(share, key=lambda pair: pair[0]) for step in branch] for share in shares]


def _total(share: list[tuple[float, list[Step]]]) -> float:
    return sum(cost for cost, _ in share)


def _cost(step: Step) -> float:
    """Return about how many milliseconds the step takes; an encoder's own resize is no part of it."""
    match step.operation:
        case Encoder(cost=cost):
            return float(cost(step.params)) * megapixels(step.size)
        case PixelOperation(cost=cost):
            return float(cost(step.params)) * max(megapixels(step.size_in), megapixels(step.size))
        case _:
            return 0.0
