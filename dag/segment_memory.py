"""Plan → the memory that each segment takes in its converter, known before it runs: what admission goes by.

A bound, from sizes and parameters alone; `benchmarks/memory.py` holds it against what converters really take.
"""

from __future__ import annotations

from dag.plan import SOURCE, Plan, Step
from dag.segments import Segment, at_hand
from pixtools.imaging.memory_bounds import (
    DEEP_BYTES,
    PIXEL_BYTES,
    can_be_deep,
    count,
    of_converting,
    of_decoding,
    of_encoding_deep,
    of_inspecting,
    of_mark,
    of_resampling,
    of_sharing,
)
from pixtools.imaging.picture import Size
from pixtools.operations.base.kinds import (
    Composite,
    EncodeParams,
    Encoder,
    Inference,
    Inspector,
    PixelOperation,
    PixelParams,
)
from pixtools.operations.png import PNG

_ANY = 48_000_000  # connections, buffers of an upload, what allocators round up to, what a bundle keeps in memory
_FILE = 6.0  # bytes a pixel that no file of ours exceeds: a lossless one of noise with alpha has a little over 4


def footprint(plan: Plan, segment: Segment, source_bytes: int) -> int:
    """Return the bytes that a converter takes at most for a segment, beyond what it takes idle."""
    if segment.bundles:
        return _ANY + _of_artifact(plan, segment.steps[0])
    frames, transparent = plan.source.frames, _transparent(plan)
    pictures: dict[str, Size] = {}  # those at hand, as the converter has them
    deep = _may_be_deep(plan, segment)
    most = 0
    for at, step in enumerate(segment.steps):
        if segment.reads_head(step) and segment.head not in pictures:
            pictures[segment.head] = at_hand(plan, segment.head, segment.enough)
            most = max(most, _of_head(plan, segment, pictures[segment.head]))
        if segment.hands_on(step):
            work = of_sharing(_known(step.size_in), frames)
        else:
            work = _of_step(plan, step, pictures, alpha=step.name in transparent)
            if deep and step.name == segment.head:
                work = max(work, of_encoding_deep(_known(step.size)))
        more = DEEP_BYTES - PIXEL_BYTES if deep else 0
        kept = sum(
            (PIXEL_BYTES + more * (name == segment.head)) * count(size, frames) for name, size in pictures.items()
        )
        most = max(most, work + kept)
        if step.makes_pixels and not segment.hands_on(step):
            pictures[step.name] = _known(step.size)
        needed = {name for later in segment.steps[at + 1 :] for name in later.inputs}
        pictures = {name: size for name, size in pictures.items() if name in needed}
    return _ANY + source_bytes + most


def _of_head(plan: Plan, segment: Segment, size: Size) -> int:
    """Return what it takes to have the pixels at hand, at `size`, that a segment begins with."""
    source, deep = plan.source, segment.is_deep
    kept = (DEEP_BYTES if _may_be_deep(plan, segment) else PIXEL_BYTES) * count(size, source.frames)
    if segment.imports:
        decoding = kept
    elif segment.head == SOURCE:
        decoding = of_decoding(source.media_type, source.size, size, source.frames, deep=deep)
    else:
        file = round(_FILE * count(size, source.frames))
        decoding = file + of_decoding(PNG.media_type, size, size, source.frames, deep=deep)
    return max(decoding, kept + of_sharing(size, source.frames) if segment.exports else 0)


def _may_be_deep(plan: Plan, segment: Segment) -> bool:
    """Say whether a segment may have its head's pixels with more than 8 bits: all but inferences get those in 8."""
    if segment.head == SOURCE and not segment.is_deep:
        return False
    first = segment.head
    while first != SOURCE:
        step = plan.by_name[first]
        if not isinstance(step.operation, Inference):
            return False
        first = step.inputs[0]
    return can_be_deep(plan.source.media_type, plan.source.frames)


def _transparent(plan: Plan) -> set[str]:
    """Return the names of what may have transparent pixels: encoders take more for them."""
    found = set() if plan.source.media_type == "image/jpeg" else {SOURCE}
    for step in plan.steps:
        adds = isinstance(step.params, EncodeParams | PixelParams) and step.params.adds_alpha
        if adds or found.intersection(step.inputs):
            found.add(step.name)
    return found


def _of_step(plan: Plan, step: Step, pictures: dict[str, Size], *, alpha: bool) -> int:
    """Return what the step takes beside the pictures at hand."""
    frames = plan.source.frames
    match step.operation:
        case Encoder(memory=memory):
            frames = _frames(plan, step)
            resampling, made = _of_resampling(step, pictures, frames, alpha=alpha), count(_known(step.size), frames)
            converting = of_converting(_known(step.size), frames) if _converts(step) else 0
            prepared = PIXEL_BYTES * made if resampling or converting else 0
            return max(resampling, prepared + converting, prepared + memory(step.params).of(made, alpha=alpha))
        case Inference(memory=memory):
            return int(memory(step.params).of(count(_known(step.size), frames), alpha=alpha))
        case PixelOperation(memory=memory):
            read, made = count(pictures[step.inputs[0]], frames), count(_known(step.size), frames)
            resampling = _of_resampling(step, pictures, frames, alpha=alpha)
            changing = max(resampling, memory(step.params).of(max(read, made), alpha=alpha) + _of_parts(plan, step))
            leaving = PNG.memory(PNG.params()).of(made, alpha=alpha) if step.leaves_file else 0
            return max(changing, PIXEL_BYTES * made + leaving)
        case Inspector():
            return of_inspecting(plan.source.size)
    return 0


def _frames(plan: Plan, step: Step) -> int:
    """Return how many frames a step makes or encodes."""
    frames = plan.source.frames
    return step.params.frame_count(frames) if isinstance(step.params, EncodeParams) else frames


def _of_parts(plan: Plan, step: Step) -> int:
    """Return what it takes to put further files of the request on a picture."""
    if not isinstance(step.operation, Composite):
        return 0
    parts = [plan.source.parts[name] for name in step.operation.parts(step.params).values()]
    return sum(part.bytes + of_mark(part.media_type, part.size, part.frames) for part in parts)


def _converts(step: Step) -> bool:
    return isinstance(step.params, EncodeParams) and step.params.color == "srgb"


def _of_resampling(step: Step, pictures: dict[str, Size], frames: int, *, alpha: bool) -> int:
    """Return what a step's own change of size takes; 0 for one without."""
    full, made = _known(step.size_in), _known(step.size)
    if not isinstance(step.params, EncodeParams | PixelParams):
        return 0
    scaled = step.params.enough(full)
    if full == scaled == made:
        return 0
    return of_resampling(pictures[step.inputs[0]], scaled, made, frames, alpha=alpha)


def _of_artifact(plan: Plan, step: Step) -> int:
    """Return what it takes to read the file of another step; a bundle passes its files through in pieces."""
    if not isinstance(step.operation, Inspector):
        return 0
    made = plan.by_name[step.inputs[0]]
    size = _known(made.size)
    return round(_FILE * count(size, _frames(plan, made))) + of_inspecting(size)


def _known(size: Size | None) -> Size:
    assert size is not None  # noqa: S101 (every step that has to do with pixels has sizes)
    return size
