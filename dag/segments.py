"""Plan → segments: which steps one converter makes in one call.

Steps that share pixels stay in one process, where sharing costs nothing. When converters stand idle and the
picture is large, the work is split: the first segment decodes and hands its pixels on through shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dag.plan import SOURCE, Plan, Step
from pixtools.operations.base import Bundler, Encoder, Kind, Transform

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
class Order:
    """What one converter call is asked to do."""

    segment: Segment
    owner: str
    source_key: str  # of the source in the blob store
    entries: tuple[tuple[str, str], ...] = ()  # file name and blob key of what a bundle reads


@dataclass(frozen=True)
class Decoded:
    """A converter's word that it has the pixels; what goes wrong after it is a step's own doing.

    `pixels` refers to them in shared memory where the segment exports them.
    """

    pixels: Any = None


def segments(plan: Plan, work: frozenset[str], ways: int, megapixels: float) -> tuple[Segment, ...]:
    """Share the steps of `work` among at most `ways` converters; bundles follow in segments of their own."""
    rooted = _branches(plan, work)
    split = _share(rooted, ways, megapixels)
    made = [
        Segment(
            tuple(step for step in plan.steps if step.name in names),
            exports=len(split) > 1 and not at,
            imports=at > 0,
        )
        for at, names in enumerate(split)
    ]
    return (
        *made,
        *(Segment((step,), bundles=True) for step in plan.steps if step.name in work and reads_artifacts(step)),
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


def _share(branches: list[list[Step]], ways: int, megapixels: float) -> list[set[str]]:
    """Divide branches by longest processing time first; the first share, which decodes, gets all that reads files."""
    if not branches:
        return []
    costs = {branch[0].name: megapixels * sum(map(_cost, branch)) for branch in branches}
    bins: list[tuple[float, set[str]]] = [(0.0, set())]
    for branch in sorted(branches, key=lambda branch: -costs[branch[0].name]):
        names, cost = {step.name for step in branch}, costs[branch[0].name]
        lightest = min(range(len(bins)), key=lambda at: bins[at][0])
        movable = cost >= _WORTH_SPLITTING_MS and bins[lightest][0] >= _WORTH_SPLITTING_MS
        if movable and len(bins) < ways:
            bins.append((cost, names))
        else:
            at = lightest if cost else 0
            bins[at] = (bins[at][0] + cost, bins[at][1] | names)
    return [names for _, names in bins]


def _cost(step: Step) -> float:
    """Return milliseconds a megapixel of the source; a resize inside an encoder is taken to leave a quarter."""
    match step.operation:
        case Encoder(ms_per_megapixel=ms):
            return ms / 4 if getattr(step.params, "resize", None) else ms
        case Transform(ms_per_megapixel=ms):
            return ms
        case _:
            return 0.0
