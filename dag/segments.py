"""Plan → segments: which steps one converter makes in one call.

Steps that share pixels stay in one process, where sharing costs nothing. When converters stand idle and the
picture is large, the work is split: the first segment decodes and hands its pixels on through shared memory.

An inference runs elsewhere, so it cuts the plan: the segment that makes what it reads hands that on, and what reads
its result, its own file included, is in segments that it heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dag.plan import SOURCE, Plan, Step
from pixtools.imaging.decoding import drafted_size
from pixtools.imaging.picture import Picture, Size, megapixels
from pixtools.operations.base.kinds import Bundler, EncodeParams, Encoder, Inference, Kind, PixelOperation, PixelParams

# Handing pixels to another process costs about 2 ms a megapixel; below this there is nothing to win.
_WORTH_SPLITTING_MS = 100.0
_RESIZING_MS = 8.0  # a megapixel: what an encoder's own resize takes


@dataclass(frozen=True)
class Segment:
    """Steps for one converter call, in running order.

    They begin with the pixels of `head`, the source or an inference; or, where `bundles` is set, with the artifacts of
    other steps once these are done. An inference that is not the head is handed on here, and ends elsewhere.
    """

    steps: tuple[Step, ...]
    head: str = SOURCE
    exports: bool = False  # hands the head's pixels to the segments that import them
    imports: bool = False  # takes them instead of decoding the head's file itself
    bundles: bool = False
    enough: Size | None = None  # of the head's picture: none of its readers, here or elsewhere, needs more

    @property
    def names(self) -> tuple[str, ...]:
        """The steps that end here."""
        return tuple(step.name for step in self.steps if not self.hands_on(step))

    @property
    def handed_on(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps if self.hands_on(step))

    def hands_on(self, step: Step) -> bool:
        return isinstance(step.operation, Inference) and step.name != self.head

    @property
    def is_deep(self) -> bool:
        """Whether the head's pixels are wanted with all their bits: only an inference has a use for more than 8."""
        return any(self.hands_on(step) and step.inputs == (self.head,) for step in self.steps)

    def reads_head(self, step: Step) -> bool:
        """Say whether a step needs the pixels that the segment begins with."""
        return step.name == self.head or (step.reads_pixels and step.inputs == (self.head,))


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
    entries: tuple[tuple[str, str], ...] = ()  # file name and blob key of what a bundle reads, or of the head's file


@dataclass(frozen=True)
class Decoded:
    """A converter's word that it has the pixels; what goes wrong after it is a step's own doing.

    Where the segment exports them, they are the next item of the stream: see Picture.share.
    """


@dataclass(frozen=True)
class HandedOn:
    """A converter's word that an inference can begin; the pixels for it are the next item of the stream."""

    step: str


@dataclass(frozen=True)
class Progress:
    """An inference's word of how far it is; when all is done, the Inferred comes next, and this once more."""

    done: int
    total: int


@dataclass(frozen=True)
class Inferred:
    """What an inference made: the two parts of a picture, see Picture.share, and what it says of it."""

    frames: Any
    rest: Picture
    facts: dict[str, Any]


def segments(plan: Plan, work: frozenset[str], ways: int) -> tuple[Segment, ...]:
    """Share the steps of `work` among at most `ways` converters for each head; bundles follow, each by itself."""
    inferences = [step.name for step in plan.steps if isinstance(step.operation, Inference)]
    bundles = [step for step in plan.steps if step.name in work and reads_artifacts(step)]
    return (
        *(segment for head in (SOURCE, *inferences) for segment in _headed(plan, work, ways, head)),
        *(Segment((step,), bundles=True) for step in bundles),
    )


def _headed(plan: Plan, work: frozenset[str], ways: int, head: str) -> list[Segment]:
    """Return the segments that begin with the pixels of `head`: those of an inference at work come from elsewhere."""
    enough = _enough(plan, work) if head == SOURCE else None
    shares = _share(_branches(plan, work, head), ways, head, at_hand(plan, head, enough))
    given = head in work
    return [
        Segment(tuple(steps), head, not given and len(shares) > 1 and at == 0, given or at > 0, enough=enough)
        for at, steps in enumerate(shares)
    ]


def at_hand(plan: Plan, head: str, enough: Size | None) -> Size:
    """Return the size at which the pixels of a head are at hand."""
    source = plan.source
    if head != SOURCE:
        size = plan.by_name[head].size
        assert size is not None  # noqa: S101 (it makes pixels)
        return size
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
        if step.name in work and step.reads_source_pixels and isinstance(step.params, EncodeParams | PixelParams)
    ]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


def _branches(plan: Plan, work: frozenset[str], head: str) -> list[list[Step]]:
    """Return the work that begins with `head` as groups that share no pixels but the head's own."""
    branches: dict[str, list[Step]] = {}
    root: dict[str, str] = {}
    for step in plan.steps:
        if reads_artifacts(step):
            continue
        read = step.inputs[0]
        if head in (step.name, read):
            root[step.name] = step.name
        elif read in root and not isinstance(plan.by_name[read].operation, Inference):
            root[step.name] = root[read]
        else:
            continue  # it begins with another head
        if step.name in work:
            branches.setdefault(root[step.name], []).append(step)
    return list(branches.values())


def _share(branches: list[list[Step]], ways: int, head: str, size: Size) -> list[list[Step]]:
    """Divide branches by longest processing time first; the first share, which decodes, gets all that reads files.

    `size` is that at which the head's pixels are at hand.
    Each share begins with its cheapest branch: a result that takes milliseconds does not wait for one of seconds.
    """
    weighed = sorted(
        ((sum(_cost(step, head, size) for step in branch), branch) for branch in branches), key=lambda pair: -pair[0]
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


def _cost(step: Step, head: str, size: Size) -> float:
    """Return about how many milliseconds a converter is at the step, an encoder's own resize included."""
    read = megapixels(size if step.inputs == (head,) else step.size_in)
    made = megapixels(step.size)
    match step.operation:
        case Encoder(cost=cost):
            resizing = _RESIZING_MS * max(read, made) if step.size != step.size_in else 0.0
            return resizing + float(cost(step.params)) * made
        case Inference() if step.name != head:
            return 0.0  # handed on at once
        case PixelOperation(cost=cost):
            return float(cost(step.params)) * max(read, made)
        case _:
            return 0.0
