"""Plan → segments: which steps one converter makes in one call.

Steps that share pixels stay in one process, where sharing costs nothing. When converters stand idle and the
picture is large, the work is split: the first segment decodes and hands its pixels on through shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dag.plan import SOURCE, Plan, Step
from pixtools.imaging.decoding import drafted_size
from pixtools.imaging.picture import Size, megapixels
from pixtools.operations.base import Bundler, EncodeParams, Encoder, Kind, PixelOperation, TransformParams

# Handing pixels to another process costs about 2 ms a megapixel; below this there is nothing to win.
_WORTH_SPLITTING_MS = 100.0
_RESIZING_MS = 8.0  # a megapixel: what an encoder's own resize takes


@dataclass(frozen=True)
class Segment:
    """Steps for one converter call, in running order.

    They read the source, or, where `bundles` is set, the artifacts of other steps once these are done.
    """

    steps: tuple[Step, ...]
    exports: bool = False  # hands the source's pixels to the segments that import them
    imports: bool = False  # takes them instead of decoding the source itself
    bundles: bool = False
    enough: Size | None = None  # of the source's picture: none of its readers, here or elsewhere, needs more

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
    enough = _enough(plan, work)
    shares = _share(_branches(plan, work), ways, drafted(plan, enough))
    bundles = [step for step in plan.steps if step.name in work and reads_artifacts(step)]
    return (
        *(
            Segment(tuple(steps), exports=len(shares) > 1 and at == 0, imports=at > 0, enough=enough)
            for at, steps in enumerate(shares)
        ),
        *(Segment((step,), bundles=True) for step in bundles),
    )


def drafted(plan: Plan, enough: Size | None) -> Size:
    """Return the size at which the source's pixels are at hand."""
    source = plan.source
    if enough is None or source.media_type != "image/jpeg":
        return source.size
    return drafted_size(source.size, enough)


def reads_artifacts(step: Step) -> bool:
    """Say whether a step reads files from storage, rather than what its segment has at hand."""
    return isinstance(step.operation, Bundler) or (step.operation.reads is Kind.FILE and step.inputs != (SOURCE,))


def _enough(plan: Plan, work: frozenset[str]) -> Size | None:
    """Return the size of which no reader of the source's pixels needs more; None where nobody reads them."""
    sizes = [
        step.params.enough(plan.source.size)
        for step in plan.steps
        if step.name in work and step.reads_source_pixels and isinstance(step.params, EncodeParams | TransformParams)
    ]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


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


def _share(branches: list[list[Step]], ways: int, source: Size) -> list[list[Step]]:
    """Divide branches by longest processing time first; the first share, which decodes, gets all that reads files.

    `source` is the size at which its pixels are at hand.
    Each share begins with its cheapest branch: a result that takes milliseconds does not wait for one of seconds.
    """
    weighed = sorted(
        ((sum(_cost(step, source) for step in branch), branch) for branch in branches), key=lambda pair: -pair[0]
    )
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


def _cost(step: Step, source: Size) -> float:
    """Return about how many milliseconds the step takes, an encoder's own resize included."""
    read = megapixels(source if step.inputs == (SOURCE,) else step.size_in)
    made = megapixels(step.size)
    match step.operation:
        case Encoder(cost=cost):
            resizing = _RESIZING_MS * max(read, made) if step.size != step.size_in else 0.0
            return resizing + float(cost(step.params)) * made
        case PixelOperation(cost=cost):
            return float(cost(step.params)) * max(read, made)
        case _:
            return 0.0
