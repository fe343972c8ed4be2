"""Divides a plan into segments. A segment is a group of steps for one converter call.

Steps that share pixels stay in one process, because sharing costs nothing there. The steps of a large picture may be
divided among several segments. The first segment then decodes the picture, and the
other segments get the pixels through shared memory.

An inference runs in the denoiser, so the plan is cut at the inference. The inference is a step of two segments. The
first segment makes the input of the inference and sends this input to the denoiser. This segment *offloads* the
inference. The second segment starts from the denoised pixels and stores them as a file. The steps that read the
denoised pixels are in the second segment or in further segments.

The *head* of a segment is the picture that the segment starts from. The name of the head is `source` or the name of an
inference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dag.plan import SOURCE, Plan, PlannedStep
from pixtools.imaging.decoding import reduced_size
from pixtools.imaging.picture import Size, megapixels
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import Bundler, DataKind, Encoder, Inference, PixelOperation
from pixtools.operations.base.params import PixelParams

# If another segment would get less work than this, it is not worth its cost. Passing pixels to another process takes
# about 2 ms per megapixel.
_WORTH_SPLITTING_MS = 100.0
_RESIZING_MS = 8.0  # per megapixel, if an encoder resizes its input
_DECODING_MS = 15.0  # per megapixel
_CHEAP_JOB_MS = 250.0  # lower than CHEAP_MS, because up to eight cheap jobs wait for each converter

CHEAP_MS = 600.0
"""The largest estimate of a cheap segment, and of all segments that share a converter call, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """Steps for one converter call, in running order."""

    steps: tuple[PlannedStep, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The steps that get their result in this segment. Offloaded inferences are excluded."""
        return tuple(step.name for step in self.steps if not self.offloads(step))

    @property
    def offloaded(self) -> tuple[str, ...]:
        """The inferences that this segment hands to the denoiser."""
        return tuple(step.name for step in self.steps if self.offloads(step))

    def offloads(self, step: PlannedStep) -> bool:  # noqa: ARG002 (subclasses use it)
        """Return whether `step` is an inference that this segment hands to the denoiser."""
        return False

    def reads_head(self, step: PlannedStep) -> bool:  # noqa: ARG002 (subclasses use it)
        """Return whether `step` needs the pixels that the segment starts from."""
        return False


@dataclass(frozen=True, kw_only=True)
class _SegmentWithHead(_Segment):
    """Steps that start from the pixels of `head`, which is the source or an inference.

    `needed_size` is the size that steps need from the head: the largest width and the largest height, in all segments
    together. Decoding may shrink the picture to about this size. If `needed_size` is None, the picture is decoded at
    full size.
    """

    head: str
    needed_size: Size | None = None

    @property
    def needs_high_bit_depth(self) -> bool:
        """Whether a step needs the head's pixels with 16 bits per channel. Only inferences use more than 8 bits."""
        return any(self.offloads(step) and step.inputs == (self.head,) for step in self.steps)

    def offloads(self, step: PlannedStep) -> bool:
        """Return whether `step` is an inference that this segment hands to the denoiser."""
        return isinstance(step.operation, Inference) and step.name != self.head

    def reads_head(self, step: PlannedStep) -> bool:
        """Return whether `step` needs the pixels that the segment starts from."""
        return step.name == self.head or (step.reads_pixels and step.inputs == (self.head,))

    def needed_after(self, at: int) -> set[str]:
        """Return the steps, and the head, whose pixels are needed after the step with the index `at`."""
        later = self.steps[at + 1 :]
        needed = {name for step in later for name in step.inputs}
        return needed | {self.head} if any(map(self.reads_head, later)) else needed


@dataclass(frozen=True, kw_only=True)
class SourceSegment(_SegmentWithHead):
    """Steps that start from the file of the source."""

    head: str = field(default=SOURCE, init=False)
    shares_head: bool = False  # whether other segments get the decoded pixels from this segment


@dataclass(frozen=True, kw_only=True)
class PixelsSegment(_SegmentWithHead):
    """Steps that get the head's pixels from another process: the denoiser, or the converter that decoded them."""


@dataclass(frozen=True, kw_only=True)
class FileSegment(_SegmentWithHead):
    """Steps that start from the stored file of the inference `head`. This inference ran earlier or in another job."""

    shares_head: bool = False  # whether other segments get the decoded pixels from this segment


@dataclass(frozen=True, kw_only=True)
class ArtifactsSegment(_Segment):
    """One step that reads stored artifacts: a bundle, or an inspector that reads the file of another step."""

    @property
    def step(self) -> PlannedStep:
        """The only step."""
        return self.steps[0]


SegmentWithHead = SourceSegment | PixelsSegment | FileSegment
"""A segment that starts from the pixels of its head."""

Segment = SegmentWithHead | ArtifactsSegment
"""The steps of one converter call."""


def plan_segments(plan: Plan, work: frozenset[str], converters: int) -> tuple[Segment, ...]:
    """Divide the steps of `work` into segments.

    Each head gets at most `converters` segments. At the end, each step that reads artifacts gets a separate segment.
    """
    inferences = [step.name for step in plan.steps if isinstance(step.operation, Inference)]
    artifact_readers = [step for step in plan.steps if step.name in work and reads_artifacts(step)]
    return (
        *(segment for head in (SOURCE, *inferences) for segment in _segments_of(head, plan, work, converters)),
        *(ArtifactsSegment(steps=(step,)) for step in artifact_readers),
    )


def _segments_of(head: str, plan: Plan, work: frozenset[str], converters: int) -> list[SegmentWithHead]:
    """Return the segments that start from the pixels of `head`."""
    needed_size = _needed_size(plan, work) if head == SOURCE else None
    branches = _branches(plan, work, head)
    if not branches:
        return []
    first, *others = _divide(branches, converters, head, head_size(plan, head, needed_size))
    followers = [PixelsSegment(steps=steps, head=head, needed_size=needed_size) for steps in others]
    if head in work:  # the inference runs in this attempt, and its pixels come from the denoiser
        return [PixelsSegment(steps=first, head=head), *followers]
    if head == SOURCE:
        return [SourceSegment(steps=first, needed_size=needed_size, shares_head=bool(others)), *followers]
    return [FileSegment(steps=first, head=head, shares_head=bool(others)), *followers]


def cheap_cost_ms(plan: Plan, segment: Segment) -> float | None:
    """Estimate the milliseconds that a converter needs for a cheap segment. Return None for all other segments.

    A cheap segment takes at most CHEAP_MS, and passes no pixels to other processes.
    """
    if isinstance(segment, ArtifactsSegment) or segment.offloaded:
        return None
    if isinstance(segment, SourceSegment | FileSegment) and segment.shares_head:
        return None
    cost = _segment_cost_ms(plan, segment)
    return cost if cost < CHEAP_MS else None


def is_cheap_job(plan: Plan) -> bool:
    """Return whether all steps of a plan together take about a quarter of a second at most on one converter."""
    # Without an inference, one segment has all steps that read no artifacts.
    segments = plan_segments(plan, frozenset(plan.by_name), 1)
    return all(
        isinstance(segment, ArtifactsSegment)
        or (not segment.offloaded and _segment_cost_ms(plan, segment) < _CHEAP_JOB_MS)
        for segment in segments
    )


def _segment_cost_ms(plan: Plan, segment: SegmentWithHead) -> float:
    decoding = 0.0 if isinstance(segment, PixelsSegment) else _DECODING_MS * megapixels(plan.source.size)
    size = head_size(plan, segment.head, segment.needed_size)
    steps = sum(_cost_ms(step, segment.head, size) for step in segment.steps)
    return plan.source.frames * (decoding + steps)


def head_size(plan: Plan, head: str, needed_size: Size | None) -> Size:
    """Return the size of the head's picture in the converter. For a JPEG, this is the size after shrink on load."""
    source = plan.source
    if head != SOURCE:
        size = plan.by_name[head].size
        assert size is not None  # noqa: S101 (an inference makes pixels)
        return size
    if needed_size is None or source.media_type != "image/jpeg":
        return source.size
    return reduced_size(source.size, needed_size)


def reads_artifacts(step: PlannedStep) -> bool:
    """Return whether a step reads stored artifacts. All other steps read pixels, or the file of the source."""
    return isinstance(step.operation, Bundler) or (step.operation.reads is DataKind.FILE and step.inputs != (SOURCE,))


def _needed_size(plan: Plan, work: frozenset[str]) -> Size | None:
    """Return the largest width and the largest height that steps need, or None if no step reads the source's pixels."""
    sizes = [
        step.params.needed_size(plan.source.size)
        for step in plan.steps
        if step.name in work and step.reads_source_pixels and isinstance(step.params, EncodeParams | PixelParams)
    ]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


def _branches(plan: Plan, work: frozenset[str], head: str) -> list[list[PlannedStep]]:
    """Return the steps of `work` that start from `head`, as branches. Two branches share no pixels except the head."""
    branches: dict[str, list[PlannedStep]] = {}
    root: dict[str, str] = {}  # for each step, the first step of its branch
    for step in plan.steps:
        if reads_artifacts(step):
            continue
        read = step.inputs[0]
        if head in (step.name, read):
            root[step.name] = step.name
        elif read in root and not isinstance(plan.by_name[read].operation, Inference):
            root[step.name] = root[read]
        else:
            continue  # the step starts from another head
        if step.name in work:
            branches.setdefault(root[step.name], []).append(step)
    return list(branches.values())


def _divide(
    branches: list[list[PlannedStep]], converters: int, head: str, size: Size,
) -> list[tuple[PlannedStep, ...]]:  # fmt: skip
    """Divide branches among converters. Assign the branch with the longest processing time first (LPT scheduling).

    `size` is the size of the head's picture in the converter. Each share of the branches becomes one segment. Branches
    without cost go to the first share. The converter of this share has the file of the source for inspectors, and it
    decodes the pixels for offloaded inferences. Each share runs its cheapest branch first, so that a result that takes
    milliseconds does not wait for a result that takes seconds.
    """
    costs = [(sum(_cost_ms(step, head, size) for step in branch), branch) for branch in branches]
    shares: list[list[tuple[float, list[PlannedStep]]]] = []
    for cost, branch in sorted(costs, key=lambda pair: -pair[0]):
        lightest = min(shares, key=_total, default=None)
        if lightest is None or (len(shares) < converters and min(cost, _total(lightest)) >= _WORTH_SPLITTING_MS):
            shares.append([(cost, branch)])
        else:
            (lightest if cost else shares[0]).append((cost, branch))
    return [tuple(step for _, branch in sorted(share, key=lambda pair: pair[0]) for step in branch) for share in shares]


def _total(share: list[tuple[float, list[PlannedStep]]]) -> float:
    return sum(cost for cost, _ in share)


def _cost_ms(step: PlannedStep, head: str, size: Size) -> float:
    """Estimate the milliseconds that a converter needs for a step. The time for resizing in an encoder is included."""
    megapixels_in = megapixels(size if step.inputs == (head,) else step.size_in)
    megapixels_out = megapixels(step.size)
    match step.operation:
        case Encoder(cost=cost):
            resizing = _RESIZING_MS * max(megapixels_in, megapixels_out) if step.size != step.size_in else 0.0
            return resizing + float(cost(step.params)) * megapixels_out
        case Inference() if step.name != head:
            return 0.0  # the inference runs in the denoiser
        case PixelOperation(cost=cost):
            return float(cost(step.params)) * max(megapixels_in, megapixels_out)
        case _:
            return 0.0
