"""Calculates how much memory each segment of a plan needs. The converter pool uses this number to choose a converter.

The number is an upper bound. It is calculated from file types, sizes and parameters, before any picture is decoded.
`benchmarks/memory.py` compares the bound with the memory that converters really use.
"""

from __future__ import annotations

from typing import assert_never

from dag.plan import SOURCE, Plan, PlannedStep
from dag.segments import (
    ArtifactsSegment,
    FileSegment,
    PixelsSegment,
    Segment,
    SegmentWithHead,
    SourceSegment,
    head_size,
)
from pixtools.imaging.memory_bounds import (
    HIGH_BIT_DEPTH_BYTES,
    PIXEL_BYTES,
    Memory,
    count,
    may_have_high_bit_depth,
    of_converting,
    of_decoding,
    of_encoding_16_bit,
    of_inspecting,
    of_mark,
    of_resampling,
    of_sharing,
)
from pixtools.imaging.picture import Size
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import Composite, Encoder, Inference, Inspector, PixelOperation
from pixtools.operations.base.params import PixelParams
from pixtools.operations.png import PNG

# For connections, upload buffers, memory that the allocator adds, and the files that a bundle keeps in memory.
_OVERHEAD_BYTES = 48_000_000
# Bytes per pixel of the largest file that an encoder makes. A lossless file of noise with alpha has a little over 4.
_FILE_BYTES = 6.0


def footprint(plan: Plan, segment: Segment, source_bytes: int) -> int:
    """Return how many bytes of memory a segment needs at most, in addition to the memory of an idle converter."""
    match segment:
        case ArtifactsSegment():
            return _OVERHEAD_BYTES + _artifact_bytes(plan, segment.step)
        case SourceSegment() | PixelsSegment() | FileSegment():
            return _OVERHEAD_BYTES + source_bytes + _Simulation(plan, segment).peak_bytes()
        case _:
            assert_never(segment)


class _Simulation:
    """Simulates a converter that runs a segment, and adds up the bytes of the pictures in memory."""

    def __init__(self, plan: Plan, segment: SegmentWithHead) -> None:
        self._plan = plan
        self._segment = segment
        self._frames = plan.source.frames
        self._transparent = _may_be_transparent(plan)
        self._high_bit_depth = _head_may_have_high_bit_depth(plan, segment)
        self._pictures: dict[str, Size] = {}  # sizes of the pictures in memory, by step

    def peak_bytes(self) -> int:
        segment = self._segment
        peak = 0
        for at, step in enumerate(segment.steps):
            if segment.reads_head(step) and segment.head not in self._pictures:
                self._pictures[segment.head] = head_size(self._plan, segment.head, segment.needed_size)
                peak = max(peak, self._bytes_to_load_head())
            peak = max(peak, self._kept_bytes() + self._bytes_to_run(step))
            if step.makes_pixels and not segment.offloads(step):
                self._pictures[step.name] = _known(step.size)
            needed = segment.needed_after(at)
            self._pictures = {name: size for name, size in self._pictures.items() if name in needed}
        return peak

    def _kept_bytes(self) -> int:
        """Return the bytes of the pictures in memory."""
        return sum(self._pixel_bytes(name) * count(size, self._frames) for name, size in self._pictures.items())

    def _pixel_bytes(self, name: str) -> int:
        """Return the bytes of one pixel. Only the head may have 16 bits per channel, because converters make 8 bits."""
        return HIGH_BIT_DEPTH_BYTES if self._high_bit_depth and name == self._segment.head else PIXEL_BYTES

    def _bytes_to_load_head(self) -> int:
        """Return the peak memory of loading the head's picture. If other segments read it, sharing is included."""
        segment, source = self._segment, self._plan.source
        size, high_bit_depth = self._pictures[segment.head], segment.needs_high_bit_depth
        kept = self._pixel_bytes(segment.head) * count(size, source.frames)
        match segment:
            case PixelsSegment():
                # The worker receives the pixels as an array, and makes the frames from a copy of the array.
                return kept + PIXEL_BYTES * count(size, source.frames)
            case SourceSegment():
                loading = of_decoding(
                    source.media_type, source.size, size, source.frames, high_bit_depth=high_bit_depth
                )
            case FileSegment():
                loading = round(_FILE_BYTES * count(size, source.frames))
                loading += of_decoding(PNG.media_type, size, size, source.frames, high_bit_depth=high_bit_depth)
            case _:
                assert_never(segment)
        return max(loading, kept + of_sharing(size, source.frames) if segment.shares_head else 0)

    def _bytes_to_run(self, step: PlannedStep) -> int:
        """Return the bytes that a step needs in addition to the pictures in memory."""
        if self._segment.offloads(step):
            return of_sharing(_known(step.size_in), self._frames)
        alpha = step.name in self._transparent
        match step.operation:
            case Encoder(memory=memory):
                return self._bytes_to_encode(step, memory(step.params), alpha=alpha)
            case Inference(memory=memory):
                needed = int(memory(step.params).of(count(_known(step.size), self._frames), alpha=alpha))
                return max(needed, of_encoding_16_bit(_known(step.size)) if self._high_bit_depth else 0)
            case PixelOperation(memory=memory):
                return self._bytes_to_change(step, memory(step.params), alpha=alpha)
            case Inspector():
                return of_inspecting(self._plan.source.size)
        return 0

    def _bytes_to_encode(self, step: PlannedStep, memory: Memory, *, alpha: bool) -> int:
        frames = self._plan.frames_of(step)
        pixels = count(_known(step.size), frames)
        resampling = self._bytes_to_resample(step, frames, alpha=alpha)
        converts = isinstance(step.params, EncodeParams) and step.params.color == "srgb"
        converting = of_converting(_known(step.size), frames) if converts else 0
        prepared = PIXEL_BYTES * pixels if resampling or converting else 0
        return max(resampling, prepared + converting, prepared + memory.of(pixels, alpha=alpha))

    def _bytes_to_change(self, step: PlannedStep, memory: Memory, *, alpha: bool) -> int:
        pixels_in = count(self._pictures[step.inputs[0]], self._frames)
        pixels_out = count(_known(step.size), self._frames)
        resampling = self._bytes_to_resample(step, self._frames, alpha=alpha)
        changing = memory.of(max(pixels_in, pixels_out), alpha=alpha) + _bytes_of_parts(self._plan, step)
        storing = PNG.memory(PNG.params()).of(pixels_out, alpha=alpha) if step.leaves_file else 0
        return max(resampling, changing, PIXEL_BYTES * pixels_out + storing)

    def _bytes_to_resample(self, step: PlannedStep, frames: int, *, alpha: bool) -> int:
        """Return the bytes that a step needs to resize its input, or 0 if the step does not resize it."""
        if not isinstance(step.params, EncodeParams | PixelParams):
            return 0
        size_in, size = _known(step.size_in), _known(step.size)
        scaled = step.params.needed_size(size_in)
        if size_in == scaled == size:
            return 0
        return of_resampling(self._pictures[step.inputs[0]], scaled, size, frames, alpha=alpha)


def _head_may_have_high_bit_depth(plan: Plan, segment: SegmentWithHead) -> bool:
    """Return whether the head's pixels may have more than 8 bits per channel in this segment.

    Only inferences read and make pixels with 16 bits per channel. So every step from the source to the head has to be
    an inference.
    """
    if segment.head == SOURCE and not segment.needs_high_bit_depth:
        return False
    name = segment.head
    while name != SOURCE:
        step = plan.by_name[name]
        if not isinstance(step.operation, Inference):
            return False
        name = step.inputs[0]
    return may_have_high_bit_depth(plan.source.media_type, plan.source.frames)


def _may_be_transparent(plan: Plan) -> set[str]:
    """Return the steps whose pictures may have alpha, and the source if its picture may have alpha.

    Encoders need more memory for alpha.
    """
    found = set() if plan.source.media_type == "image/jpeg" else {SOURCE}
    for step in plan.steps:
        adds_alpha = isinstance(step.params, EncodeParams | PixelParams) and step.params.adds_alpha
        if adds_alpha or found.intersection(step.inputs):
            found.add(step.name)
    return found


def _bytes_of_parts(plan: Plan, step: PlannedStep) -> int:
    """Return the bytes that a step needs to load its parts and to draw them on its picture."""
    if not isinstance(step.operation, Composite):
        return 0
    parts = [plan.source.parts[name] for name in step.operation.parts(step.params).values()]
    return sum(part.bytes + of_mark(part.media_type, part.size, part.frames) for part in parts)


def _artifact_bytes(plan: Plan, step: PlannedStep) -> int:
    """Return the bytes that a step needs to read artifacts. For a bundle, this is 0, because it copies small pieces."""
    if not isinstance(step.operation, Inspector):
        return 0
    made = plan.by_name[step.inputs[0]]
    size = _known(made.size)
    return round(_FILE_BYTES * count(size, plan.frames_of(made))) + of_inspecting(size)


def _known(size: Size | None) -> Size:
    assert size is not None  # noqa: S101 (every step that handles pixels has sizes)
    return size
