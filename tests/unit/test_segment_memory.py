"""The calculated memory of segments is plausible. `benchmarks/memory.py` compares it with measured memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import LIMITS
from plans import SHA, documents

from dag.plan import PartInfo, Source
from dag.segment_memory import footprint
from dag.segments import plan_segments
from dag.specification import build
from pixtools.imaging.memory_bounds import Memory, of_decoding
from pixtools.imaging.picture import Size
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Encoder, PixelOperation
from pixtools.settings import Settings

FILE = 20_000_000  # size of the source file in bytes
LARGEST = (8660, 5773)  # 50 megapixels
REQUIRED_PARAMS = {
    "watermark": {"text": "x"},
    "crop": {"width": 10, "height": 10},
    "resize": {"width": 10},
    "rotate": {"degrees": 90},
}


def footprints(
    steps: dict[str, Any], size: Size, media_type: str | None = None, frames: int = 1, converters: int = 1,
) -> list[int]:  # fmt: skip
    """Return the footprint of each segment of a document: the memory that the segment needs, in bytes."""
    plan = build(steps, Source("it", SHA, size, frames, media_type=media_type), 50, LIMITS)
    return [footprint(plan, segment, FILE) for segment in plan_segments(plan, frozenset(plan.by_name), converters)]


def one(op: str, **params: Any) -> dict[str, Any]:
    """Return a document with one step."""
    return {"it": {"op": op, "input": "source", **params}}


PIXEL_OPERATIONS = [name for name, operation in OPERATIONS.items() if isinstance(operation, Encoder | PixelOperation)]


@pytest.mark.parametrize("op", PIXEL_OPERATIONS)
def test_each_operation_on_pixels_declares_its_memory(op):
    operation = OPERATIONS[op]
    memory = operation.memory(operation.params(**REQUIRED_PARAMS.get(op, {})))

    assert isinstance(memory, Memory)
    assert memory.per_pixel > 0


@pytest.mark.parametrize("op", PIXEL_OPERATIONS)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "gif", "bmp", "tiff", "heic"])
def test_each_operation_on_the_largest_picture_fits_the_default_limit_of_a_converter(op, kind):
    document = one(op, **REQUIRED_PARAMS.get(op, {}))
    limit = Settings.model_fields["converter_memory_bytes"].default

    needed = footprints(document, LARGEST, f"image/{kind}")

    assert all(200_000_000 < bytes_ <= limit for bytes_ in needed)


@given(document=documents(), width=st.integers(1, 1_700), height=st.integers(1, 1_700), times=st.integers(1, 4))
def test_a_larger_picture_of_the_same_shape_never_needs_less(document, width, height, times):
    small, large = footprints(document, (width, height)), footprints(document, (times * width, times * height))

    assert [one <= other for one, other in zip(small, large, strict=True)] == [True] * len(small)


def test_a_picture_that_may_be_transparent_needs_more():
    def webp(kind: str, **resize: Any) -> int:
        (needed,) = footprints(
            one("webp", resize={"width": 4000, "height": 4000, **resize}), (4000, 3999), f"image/{kind}"
        )
        return needed

    assert webp("jpeg", fit="contain", background="#000000") < webp("jpeg", fit="contain")
    assert webp("jpeg", fit="cover") < webp("png", fit="cover")


def test_rotation_by_other_than_right_angles_makes_transparent_corners():
    def rotated(degrees: float) -> int:
        document = {"t": {"op": "rotate", "input": "source", "degrees": degrees}, "it": {"op": "webp", "input": "t"}}
        (needed,) = footprints(document, (3000, 3000), "image/jpeg")
        return needed

    assert rotated(89.999) > 1.4 * rotated(90)


def test_an_animation_needs_memory_for_all_frames():
    (still,), (animated,) = (footprints(one("webp"), (500, 500), frames=frames) for frames in (1, 100))

    assert animated > 50 * (still - FILE - 48_000_000)


@pytest.mark.parametrize(
    "encoder", [{"op": "jpg", "keep_smaller": True}, {"op": "webp", "frames": "first"}], ids=["jpg", "frames: first"]
)
def test_an_encoder_of_one_frame_needs_no_more_for_an_animation_than_its_pixels(encoder):
    (still,), (animated,) = (
        footprints({"it": encoder | {"input": "source"}}, (500, 500), "image/gif", frames) for frames in (1, 100)
    )
    decoded = of_decoding("image/gif", (500, 500), (500, 500), 100)

    assert still < animated <= 48_000_000 + FILE + decoded


def watermarked(**parts: PartInfo) -> int:
    """Return the largest footprint for a document with a text watermark and one watermark for each part."""
    document = {name: {"op": "watermark", "input": "source", "image": name} for name in parts} | {
        "text": {"op": "watermark", "input": "source", "text": "x"}
    }
    plan = build(document, Source("it", SHA, (100, 100), parts=parts, media_type="image/png"), 50, LIMITS)
    return max(footprint(plan, segment, FILE) for segment in plan_segments(plan, frozenset(plan.by_name), 1))


def test_a_logo_needs_memory_for_its_pixels_frames_and_bytes():
    small, large, animated = (
        watermarked(logo=PartInfo(SHA, size, frames, "image/png"))
        for size, frames in (((100, 100), 1), ((4000, 4000), 1), ((100, 100), 1000))
    )

    assert small < watermarked() + 1_000_000
    assert watermarked(logo=PartInfo(SHA, (100, 100), bytes=FILE)) > small + FILE - 1_000_000
    assert large - small > 16_000_000 * 19
    assert animated - small > 10_000_000 * 19


def test_pictures_that_later_steps_read_stay_in_memory():
    chain = {
        "a": {"op": "flip", "input": "source"},
        "b": {"op": "flip", "input": "a"},
        "c": {"op": "flip", "input": "b"},
        "z": {"op": "png", "input": "c"},
    }
    tree = chain | {name: {"op": "png", "input": read} for name, read in (("x", "source"), ("y", "a"), ("w", "b"))}

    (dropped,), (kept,) = footprints(chain, (8000, 6000), "image/bmp"), footprints(tree, (8000, 6000), "image/bmp")

    assert kept > dropped


def test_a_jpeg_that_is_shrunk_on_load_needs_less():
    (small,), (whole,) = (
        footprints(one("webp", **params), LARGEST, "image/jpeg") for params in ({"resize": {"width": 320}}, {})
    )

    # If the JPEG is progressive, its decoder holds the coefficients of the full size. The bound allows for this.
    assert small < 0.6 * whole


def test_an_enlarged_picture_needs_memory_for_its_new_size():
    (large,) = footprints(one("jpg", resize={"width": 7000, "upscale": True}), (100, 100))

    assert large > 7000 * 7000 * 4


def test_a_segment_that_starts_from_pixels_needs_no_memory_for_a_decoder():
    steps = {"a": {"op": "jpg", "input": "source", "resize": {"width": 6_000}}, "b": {"op": "png", "input": "source"}}
    (decoding, receiving), (alone,) = (
        footprints(steps, LARGEST, "image/tiff", converters=converters) for converters in (2, 1)
    )

    assert receiving < decoding
    assert receiving < alone


def test_a_bundle_needs_little_memory_for_large_files():
    *_, bundle = footprints(one("png") | {"all": {"op": "zip", "input": ["it", "source"]}}, LARGEST)

    assert bundle < 50_000_000


def test_metadata_of_another_steps_file_needs_memory_for_that_file():
    *_, facts = footprints(one("png") | {"facts": {"op": "metadata", "input": "it"}}, LARGEST)

    assert facts > 4 * 50_000_000


@pytest.mark.parametrize(("kind", "more"), [("image/png", True), ("image/jpeg", False), ("image/webp", False)])
def test_decoding_16_bits_needs_more_for_formats_that_have_them(kind, more):
    plain, high_bit_depth = (
        of_decoding(kind, LARGEST, LARGEST, 1, high_bit_depth=high_bit_depth) for high_bit_depth in (False, True)
    )
    assert (high_bit_depth > plain) == more
    assert of_decoding(kind, (100, 100), (100, 100), 5, high_bit_depth=True) == of_decoding(
        kind, (100, 100), (100, 100), 5
    )


def test_only_an_inference_needs_memory_for_16_bits():
    size = (4000, 3000)
    (png,), (webp,) = (footprints(one("webp"), size, kind) for kind in ("image/png", "image/webp"))
    offloading, receiving = footprints(one("denoise"), size, "image/png")
    _, receiving_8 = footprints(one("denoise"), size, "image/jpeg")

    assert png <= webp
    assert offloading > footprints(one("crop", width=9, height=9), size, "image/png")[0]
    assert receiving > receiving_8
