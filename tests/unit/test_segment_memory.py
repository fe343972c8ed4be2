"""What a segment takes in its converter, as known before it runs; `benchmarks/memory.py` holds it to the truth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import LIMITS
from plans import SHA, documents

from dag.plan import Part, Source
from dag.segment_memory import footprint
from dag.segments import segments
from dag.specification import build
from pixtools.imaging.memory_bounds import Memory, of_decoding
from pixtools.imaging.picture import Size
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Encoder, PixelOperation
from pixtools.settings import Settings

FILE = 20_000_000
LARGEST = (8660, 5773)  # 50 megapixels
NEEDS = {
    "watermark": {"text": "x"},
    "crop": {"width": 10, "height": 10},
    "resize": {"width": 10},
    "rotate": {"degrees": 90},
}


def of(
    steps: dict[str, Any], size: Size, media_type: str | None = None, frames: int = 1, ways: int = 1,
) -> list[int]:  # fmt: skip
    """Return the footprint of each segment."""
    plan = build(steps, Source("it", SHA, size, frames, media_type=media_type), 50, LIMITS)
    return [footprint(plan, segment, FILE) for segment in segments(plan, frozenset(plan.by_name), ways)]


def one(op: str, **params: Any) -> dict[str, Any]:
    return {"it": {"op": op, "input": "source", **params}}


PIXELS = [name for name, operation in OPERATIONS.items() if isinstance(operation, Encoder | PixelOperation)]


@pytest.mark.parametrize("op", PIXELS)
def test_every_operation_on_pixels_says_what_it_takes(op):
    operation = OPERATIONS[op]
    memory = operation.memory(operation.params(**NEEDS.get(op, {})))

    assert isinstance(memory, Memory)
    assert memory.per_pixel > 0


@pytest.mark.parametrize("op", PIXELS)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "gif", "bmp", "tiff", "heic"])
def test_the_default_limits_admit_every_operation_on_the_largest_picture(op, kind):
    most = Settings.model_fields["converter_memory_bytes"].default

    needed = of(one(op, **NEEDS.get(op, {})), LARGEST, f"image/{kind}")  # two segments for what runs elsewhere

    assert all(200_000_000 < bytes_ <= most for bytes_ in needed)


@given(document=documents(), width=st.integers(1, 1_700), height=st.integers(1, 1_700), times=st.integers(1, 4))
def test_a_larger_picture_of_the_same_shape_never_takes_less(document, width, height, times):
    small, large = of(document, (width, height)), of(document, (times * width, times * height))

    assert [one <= other for one, other in zip(small, large, strict=True)] == [True] * len(small)


def test_transparency_counts_where_there_may_be_some():
    def webp(kind: str, **resize: Any) -> int:
        (needed,) = of(one("webp", resize={"width": 4000, "height": 4000, **resize}), (4000, 3999), f"image/{kind}")
        return needed

    assert webp("jpeg", fit="contain", background="#000000") < webp("jpeg", fit="contain")
    assert webp("jpeg", fit="cover") < webp("png", fit="cover")


def test_what_is_turned_by_no_right_angle_has_transparent_corners():
    def turned(degrees: float) -> int:
        document = {"t": {"op": "rotate", "input": "source", "degrees": degrees}, "it": {"op": "webp", "input": "t"}}
        (needed,) = of(document, (3000, 3000), "image/jpeg")
        return needed

    assert turned(89.999) > 1.4 * turned(90)


def test_all_frames_of_an_animation_count():
    (still,), (moving,) = (of(one("webp"), (500, 500), frames=frames) for frames in (1, 100))

    assert moving > 50 * (still - FILE - 48_000_000)


@pytest.mark.parametrize(
    "encoder", [{"op": "jpg", "keep_smaller": True}, {"op": "webp", "frames": "first"}], ids=["jpg", "frames: first"]
)
def test_what_holds_one_frame_takes_no_more_for_an_animation_than_its_pixels(encoder):
    (still,), (moving,) = (
        of({"it": encoder | {"input": "source"}}, (500, 500), "image/gif", frames) for frames in (1, 100)
    )
    decoded = of_decoding("image/gif", (500, 500), (500, 500), 100)

    assert still < moving <= 48_000_000 + FILE + decoded


def marked(**parts: Part) -> int:
    document = {name: {"op": "watermark", "input": "source", "image": name} for name in parts} | {
        "text": {"op": "watermark", "input": "source", "text": "x"}
    }
    plan = build(document, Source("it", SHA, (100, 100), parts=parts, media_type="image/png"), 50, LIMITS)
    return max(footprint(plan, segment, FILE) for segment in segments(plan, frozenset(plan.by_name), 1))


def test_a_logo_counts_as_large_as_it_is():
    small, large, moving = (
        marked(logo=Part(SHA, size, frames, "image/png"))
        for size, frames in (((100, 100), 1), ((4000, 4000), 1), ((100, 100), 1000))
    )

    assert small < marked() + 1_000_000
    assert marked(logo=Part(SHA, (100, 100), bytes=FILE)) > small + FILE - 1_000_000
    assert large - small > 16_000_000 * 19
    assert moving - small > 10_000_000 * 19


def test_pictures_that_later_steps_read_are_held_until_then():
    chain = {
        "a": {"op": "flip", "input": "source"},
        "b": {"op": "flip", "input": "a"},
        "c": {"op": "flip", "input": "b"},
        "z": {"op": "png", "input": "c"},
    }
    tree = chain | {name: {"op": "png", "input": read} for name, read in (("x", "source"), ("y", "a"), ("w", "b"))}

    (passed_on,), (held,) = of(chain, (8000, 6000), "image/bmp"), of(tree, (8000, 6000), "image/bmp")

    assert held > passed_on


def test_a_jpeg_that_is_wanted_small_takes_less_than_one_that_is_wanted_whole():
    (small,), (whole,) = (
        of(one("webp", **params), LARGEST, "image/jpeg") for params in ({"resize": {"width": 320}}, {})
    )

    assert small < 0.6 * whole  # a progressive one has all its coefficients in memory


def test_a_picture_that_is_enlarged_counts_as_large_as_it_will_be():
    (large,) = of(one("jpg", resize={"width": 7000, "upscale": True}), (100, 100))

    assert large > 7000 * 7000 * 4


def test_a_segment_that_is_handed_its_pixels_pays_for_no_decoder():
    steps = {"a": {"op": "jpg", "input": "source", "resize": {"width": 6_000}}, "b": {"op": "png", "input": "source"}}
    (decoding, importing), (alone,) = (of(steps, LARGEST, "image/tiff", ways=ways) for ways in (2, 1))

    assert importing < decoding
    assert importing < alone


def test_a_bundle_takes_little_whatever_it_bundles():
    *_, bundle = of(one("png") | {"all": {"op": "zip", "input": ["it", "source"]}}, LARGEST)

    assert bundle < 50_000_000


def test_facts_of_a_file_made_here_take_that_file():
    *_, facts = of(one("png") | {"facts": {"op": "metadata", "input": "it"}}, LARGEST)

    assert facts > 4 * 50_000_000


@pytest.mark.parametrize(("kind", "more"), [("image/png", True), ("image/jpeg", False), ("image/webp", False)])
def test_sixteen_bits_take_more_to_decode_where_a_format_has_them(kind, more):
    plain, deep = (of_decoding(kind, LARGEST, LARGEST, 1, deep=deep) for deep in (False, True))
    assert (deep > plain) == more
    assert of_decoding(kind, (100, 100), (100, 100), 5, deep=True) == of_decoding(kind, (100, 100), (100, 100), 5)


def test_only_an_inference_is_admitted_with_the_room_for_sixteen_bits():
    size = (4000, 3000)
    (plain,), (wide,) = (of(one("webp"), size, kind) for kind in ("image/png", "image/webp"))
    handing, receiving = of(one("denoise"), size, "image/png")
    _, receiving_8 = of(one("denoise"), size, "image/jpeg")

    assert plain <= wide
    assert handing > of(one("crop", width=9, height=9), size, "image/png")[0]
    assert receiving > receiving_8
