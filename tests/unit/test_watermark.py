"""Watermarks have the right position, size and colours. Invalid parameters are rejected."""

from __future__ import annotations

import io
from dataclasses import replace
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import LIMITS, animation, distance, opened, photo, saved, truncated_jpeg, wide_gamut_profile
from PIL import Image, ImageCms, features
from plans import SHA
from pydantic import ValidationError

from dag.plan import PartInfo, Plan, Source
from dag.specification import build
from pixtools.errors import CorruptImage, InvalidPlan, UnsupportedType
from pixtools.imaging import text_rendering
from pixtools.imaging.codecs import LETTERING
from pixtools.imaging.picture import Picture
from pixtools.imaging.stamp import Position
from pixtools.imaging.text_rendering import line_size, render_text, unwritable
from pixtools.operations import OPERATIONS
from pixtools.operations.base.params import UnsuitableParameter

WATERMARK = OPERATIONS["watermark"]
ANCHORS = [position for position in get_args(Position) if position != "tile"]
RED = (255, 0, 0, 255)


def background(color: Any = "white", size: tuple[int, int] = (200, 100), mode: str = "RGB") -> Picture:
    return Picture.still(Image.new(mode, size, color))


def logo(size: tuple[int, int] = (40, 20), color: tuple[int, ...] = RED) -> bytes:
    return saved(Image.new("RGBA", size, color), "PNG")


def marked(picture: Picture, data: bytes | None = None, **params: Any) -> Picture:
    """Return the picture with a watermark: a text, or the image in `data`."""
    if data is not None:
        params["image"] = "logo"
    model = WATERMARK.params.model_validate(params)
    model.size(picture.size)
    return WATERMARK.run(picture, model, {"logo": data})


def changed_box(before: Picture, after: Picture) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) around all changed pixels."""
    changed = (np.asarray(before.image.convert("RGBA")) != np.asarray(after.image.convert("RGBA"))).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("position", ANCHORS)
def test_an_image_stands_at_its_position(position):
    after = marked(background(), logo(), position=position, scale=0.4, margin=0.1)

    left = 10 if "left" in position else 150 if "right" in position else 80
    top = 10 if "top" in position else 70 if "bottom" in position else 40
    assert changed_box(background(), after) == (left, top, left + 40, top + 20)


@pytest.mark.parametrize("position", ANCHORS)
def test_the_visible_part_of_a_text_keeps_the_margin(position):
    box = changed_box(
        background("gray"), marked(background("gray"), text="gÅ", position=position, scale=0.3, margin=0.1)
    )

    left, top, right, bottom = box
    assert ("left" in position) == (left == 10)
    assert ("right" in position) == (right == 190)
    assert ("top" in position) == (top == 10)
    assert ("bottom" in position) == (bottom == 90)
    if "left" not in position and "right" not in position:
        assert abs(left + right - 200) <= 1


def test_a_mark_has_its_opacity():
    after = marked(background("black"), logo(), position="center", scale=0.4, opacity=0.5)

    assert after.image.getpixel((100, 50)) == (128, 0, 0)
    assert marked(background("black"), logo(), position="center", opacity=1).image.getpixel((100, 50)) == (255, 0, 0)


def test_an_opaque_picture_stays_opaque():
    after = marked(background(), logo(), position="center")

    assert after.mode == "RGB"
    assert marked(background((0, 0, 0, 255), mode="RGBA"), logo()).image.getextrema()[3] == (255, 255)


def test_a_mark_on_a_transparent_picture_keeps_its_colour():
    """The transparent pixels are green, but this hidden colour has no effect."""
    after = marked(background((0, 255, 0, 0), mode="RGBA"), logo(), position="center", scale=0.4, opacity=0.5)

    assert after.image.getpixel((100, 50)) == (255, 0, 0, 128)
    assert after.image.getpixel((1, 1)) == (0, 255, 0, 0)


def test_half_transparent_pixels_mix_by_their_alpha():
    after = marked(background((0, 0, 255, 128), mode="RGBA"), logo(), position="center", scale=0.4, opacity=0.5)

    red, green, blue, alpha = after.image.getpixel((100, 50))
    assert abs(alpha - 192) <= 1
    assert abs(red - 170) <= 2
    assert green == 0
    assert abs(blue - 85) <= 2


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_mark_leaves_a_grey_picture_grey(mode):
    color = 40 if mode == "L" else (40, 255)
    for after in (
        marked(background(color, mode=mode), text="grey"),
        marked(background(color, mode=mode), logo(color=(9,) * 4)),
    ):
        assert after.mode == mode


@pytest.mark.parametrize(("mode", "becomes"), [("L", "RGB"), ("LA", "RGBA")])
def test_a_coloured_mark_turns_a_grey_picture_into_rgb(mode, becomes):
    picture = background(40 if mode == "L" else (40, 255), mode=mode)

    for after in (marked(picture, logo(), opacity=1), marked(picture, text="red", color="#ff0000", opacity=1)):
        assert after.mode == becomes
        assert after.image.getpixel((0, 0))[:3] == (40, 40, 40)
        assert np.asarray(after.image)[..., 0].max() == 255


def test_every_frame_of_an_animation_is_marked():
    frames = tuple(Image.new("RGB", (200, 100), color) for color in ("white", "black", "blue"))
    after = marked(Picture(frames, durations=(10, 20, 30), loops=2), logo(), position="center", opacity=1)

    assert (after.durations, after.loops) == ((10, 20, 30), 2)
    assert [frame.getpixel((100, 50)) for frame in after.frames] == [(255, 0, 0)] * 3
    assert [frame.getpixel((0, 0)) for frame in after.frames] == [(255, 255, 255), (0, 0, 0), (0, 0, 255)]


def test_an_animated_mark_is_drawn_with_its_first_frame():
    assert marked(background(), animation(3), opacity=1, position="center").image.getpixel((100, 50)) == (0, 0, 0)


def test_the_input_picture_is_not_changed():
    """The pixels may be in shared memory. Other converters read this memory, so it is read-only."""
    array = photo()
    array.setflags(write=False)
    picture = Picture.still(Image.fromarray(array))

    after = marked(picture, text="mine", scale=0.3)

    assert np.array_equal(picture.image, photo())
    assert distance(after.image, photo()) > 0.1


def test_an_image_larger_than_the_picture_is_shrunk_to_fit_within_the_margins():
    tall = marked(background(), logo((100, 1000)), position="center", scale=1.0, margin=0.1)
    wide = marked(background(size=(100, 200)), logo((1000, 100)), position="center", scale=1.0, margin=0.1)

    assert changed_box(background(), tall) == (96, 10, 104, 90)
    assert changed_box(background(size=(100, 200)), wide) == (10, 96, 90, 104)


def test_a_text_wider_than_the_picture_is_shrunk_to_fit_within_the_margins():
    after = marked(background("gray"), text="A text that is much too wide", scale=0.5, margin=0.05, position="center")

    left, top, right, bottom = changed_box(background("gray"), after)
    assert 5 <= left <= 9
    assert 191 <= right <= 195
    assert bottom - top < 30


def test_the_height_of_a_text_follows_its_scale():
    def heights(scale: float) -> int:
        _, top, _, bottom = changed_box(
            background("gray", (2000, 1000)), marked(background("gray", (2000, 1000)), text="gÅ", scale=scale)
        )
        return bottom - top

    assert 90 <= heights(0.1) <= 115  # about 100 pixels from the ring of Å to the tail of g, with the outline
    assert abs(heights(0.2) - 2 * heights(0.1)) <= 3


def test_lines_stand_below_each_other():
    def size(text: str) -> tuple[int, int]:
        left, top, right, bottom = changed_box(background("gray"), marked(background("gray"), text=text, scale=0.2))
        return right - left, bottom - top

    assert size("one\ntwo")[1] > size("one two")[1] + 15
    assert size("one\ntwo")[0] < size("one two")[0]


@pytest.mark.parametrize("color", ["white", "black", "#808080", "#ff0000"])
@pytest.mark.parametrize("text_color", ["#ffffff", "#000000", "#ff0000", "#808080"])
def test_a_text_is_visible_on_any_colour(color, text_color):
    after = np.asarray(marked(background(color), text="seen", scale=0.4, color=text_color).image, dtype=int)

    assert np.abs(after - np.asarray(background(color).image, dtype=int)).max() > 70


def test_the_edges_of_letters_mix_only_with_their_outline():
    """The picture is transparent, and its hidden colour is black.

    The letters are grey and the outline is white. A pixel that is darker than the letters is mixed with black.
    """
    after = marked(background((0, 0, 0, 0), mode="RGBA"), text="edge", color="#7f7f7f", scale=0.4, opacity=1)

    pixels = np.asarray(after.image)
    assert pixels[pixels[..., 3] > 0][:, 0].min() >= 126


def test_arabic_is_joined_and_runs_from_right_to_left():
    """Joined letters are narrower than separate letters. The first letter of a word stands at the right."""
    apart, joined = (
        changed_box(
            background("gray", (800, 100)),
            marked(background("gray", (800, 100)), text=text, scale=0.6, position="left"),
        )
        for text in ("س ل ا م", "سلام")
    )

    assert joined[2] < apart[2] * 0.75
    first_wide = marked(background("gray", (800, 100)), text="سا", scale=0.6, position="left", opacity=1)
    changed = np.asarray(first_wide.image)[..., 0] != 128
    columns = np.flatnonzero(changed.any(axis=0))
    left, right = np.array_split(changed[:, columns[0] : columns[-1] + 1], 2, axis=1)
    assert right[60:].sum() > left[60:].sum()  # the first letter, U+0633, is at the right and reaches below the line


def test_tiled_marks_cover_the_picture():
    picture = background(size=(400, 300))
    after = np.asarray(marked(picture, logo(), position="tile", scale=0.1, opacity=1).image)

    red = (after == (255, 0, 0)).all(axis=-1)
    assert all(part.any() for row in np.array_split(red, 4) for part in np.array_split(row, 4, axis=1))
    assert 0.15 < red.mean() < 0.5


def test_tiny_marks_tiled_over_a_large_picture_are_quick():
    after = marked(background(size=(3000, 2000)), logo((1, 1)), position="tile", scale=0.0005, opacity=1)

    assert (np.asarray(after.image)[..., 1] == 0).sum() > 100_000


def test_the_colours_of_a_mark_are_converted_to_the_profile_of_the_picture():
    picture = replace(background("black"), icc=wide_gamut_profile())
    after = marked(picture, logo(), position="center", opacity=1)

    assert after.icc == picture.icc
    shown = ImageCms.profileToProfile(
        after.image, ImageCms.ImageCmsProfile(io.BytesIO(after.icc)), ImageCms.createProfile("sRGB")
    )
    assert max(abs(one - other) for one, other in zip(shown.getpixel((100, 50)), RED[:3], strict=True)) <= 3
    assert after.image.getpixel((100, 50)) != RED[:3]


def test_the_profile_of_a_mark_is_applied():
    wide = saved(Image.new("RGB", (40, 20), (255, 0, 0)), "PNG", icc_profile=wide_gamut_profile())
    plain = marked(background("black"), saved(Image.new("RGB", (40, 20), (200, 60, 60)), "PNG"), position="center")
    same = saved(Image.new("RGB", (40, 20), (200, 60, 60)), "PNG", icc_profile=wide_gamut_profile())

    assert marked(background("black"), wide, position="center", opacity=1).image.getpixel((100, 50)) == (255, 0, 0)
    assert marked(background("black"), same, position="center").image.getpixel((100, 50)) != plain.image.getpixel(
        (100, 50)
    )


def test_an_invalid_profile_of_the_picture_is_ignored():
    picture = replace(background("black"), icc=b"no profile")

    assert marked(picture, logo(), position="center", opacity=1).image.getpixel((100, 50)) == RED[:3]


@pytest.mark.parametrize(
    ("data", "error"),
    [(truncated_jpeg(), CorruptImage), (b"\x89PNG\r\n\x1a\n" + bytes(50), CorruptImage), (b"%PDF", UnsupportedType)],
)
def test_an_error_of_a_damaged_mark_names_the_part(data, error):
    with pytest.raises(error, match="The image 'logo': "):
        marked(background(), data)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "give a text or an image"),
        ({"text": "a", "image": "logo"}, "give a text or an image"),
        ({"text": ""}, "at least 1 character"),
        ({"text": "   \n"}, "shows nothing"),
        ({"text": "a" * 201}, "at most 200 characters"),
        ({"text": "a\n" * 10}, "more than 10 lines"),
        ({"text": "a\tb"}, r"control character \(U\+0009\)"),
        ({"text": "a\rb"}, "control character"),
        ({"text": "a\u2029b"}, "PARAGRAPH SEPARATOR"),
        ({"text": "写真"}, r"'写' \(U\+5199 CJK UNIFIED IDEOGRAPH-5199\), which the font lacks"),
        ({"text": "hi 😀"}, "GRINNING FACE"),
        ({"image": "../logo"}, "pattern"),
        ({"image": "logo", "color": "#ff0000"}, "leave `color` out: it applies only to text"),
        ({"image": "logo", "color": "#ffffff"}, "leave `color` out: it applies only to text"),
        ({"text": "a", "color": "red"}, "pattern"),
        ({"text": "a", "opacity": 0}, "greater than 0"),
        ({"text": "a", "opacity": 1.1}, "less than or equal to 1"),
        ({"text": "a", "scale": 0}, "greater than 0"),
        ({"text": "a", "scale": 2}, "less than or equal to 1"),
        ({"text": "a", "margin": 0.5}, "less than or equal to 0.4"),
        ({"text": "a", "position": "middle"}, "top-left"),
    ],
)
def test_invalid_parameters_are_rejected(params, words):
    with pytest.raises(ValidationError, match=words):
        WATERMARK.params.model_validate(params)


@pytest.mark.parametrize(
    "text",
    [
        "© Ännchen Çelik–Łódź “2026” €",
        "Ελληνικά",
        "Кириллица",
        "مرحبا",
        "שלום",
        "ภาษาไทย",
        "ქართული",
        "e\u0301",
        "a\u00a0b",
    ],
)
def test_text_in_many_scripts_is_drawn(text):
    assert marked(background("gray"), text=text).size == (200, 100)


SCRIPTS = st.sampled_from("aÅß€©–؟لاسمשلกำ\u0e49\u0301\u200d\u200f\u00ad\ufeff\n 12٣\u0600") | st.characters()


@given(
    text=st.text(SCRIPTS, max_size=30),
    scale=st.floats(0.01, 1),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_any_text_is_drawn_within_the_margins_or_rejected(text, scale, size):
    try:
        params = WATERMARK.params(text=text, scale=scale)
        params.size(size)
    except (ValidationError, UnsuitableParameter):
        return
    mark = render_text(text, params.font_size(size), "#123456", "left")
    assert mark.width <= params.max_mark_size(size)[0]
    assert mark.height <= params.max_mark_size(size)[1]


def test_a_text_too_small_to_read_is_rejected_with_the_remedy():
    params = WATERMARK.params(text="© Ann")
    with pytest.raises(
        UnsuitableParameter, match=r"too small to read in a picture of 64 × 48 pixels; give 0\.13 or more"
    ) as caught:
        params.size((64, 48))
    assert caught.value.field == "scale"
    assert WATERMARK.params(text="© Ann", scale=0.13).size((64, 48)) == (64, 48)
    with pytest.raises(UnsuitableParameter, match="leave the watermark out"):
        params.size((4, 4))


def test_a_text_too_long_to_read_is_rejected_with_the_remedy():
    with pytest.raises(
        UnsuitableParameter, match="too long to be readable in a picture of 200 × 100 pixels; shorten"
    ) as caught:
        WATERMARK.params(text="word " * 30, scale=0.1).size((200, 100))
    assert caught.value.field == "text"


@pytest.mark.parametrize("size", [(8, 1_000), (1_000, 8), (7, 7)])
def test_a_picture_too_small_for_any_text_is_rejected(size):
    with pytest.raises(UnsuitableParameter, match="too long to be readable"):
        WATERMARK.params(text="A text", scale=1.0, margin=0.4).size(size)


def test_an_image_narrower_than_a_pixel_is_rejected():
    with pytest.raises(UnsuitableParameter, match="narrower than a pixel") as caught:
        WATERMARK.params(image="logo", scale=0.005).size((200, 100))
    assert caught.value.field == "scale"


def test_the_schema_marks_the_image_as_a_part():
    image = WATERMARK.params.model_json_schema()["properties"]["image"]

    assert image["anyOf"][0]["format"] == "part"


# Watermarks in plans


def planned(document: dict[str, Any], **parts: str) -> Plan:
    files = {name: PartInfo(sha256, (20, 10)) for name, sha256 in parts.items()}
    return build(document, Source("IMG_1.jpg", SHA, (400, 300), parts=files), 50, LIMITS)


STEPS = {"w": {"op": "watermark", "input": "source", "image": "logo"}}


def faults(document: dict[str, Any], **parts: str) -> dict[str, str]:
    with pytest.raises(InvalidPlan) as caught:
        planned(document, **parts)
    return {fault.pointer: fault.detail for fault in caught.value.faults}


def test_a_missing_part_is_a_fault_at_the_field_that_names_it():
    (found,) = faults(STEPS).items()

    assert found == ("/steps/w/image", "there is no part 'logo' in the request; send the file under this name")


def test_a_missing_part_is_reported_together_with_other_faults():
    assert faults(STEPS | {"x": {"op": "png", "input": "y"}}).keys() == {"/steps/w/image", "/steps/x/input"}


def test_a_part_that_no_step_names_is_a_fault():
    assert faults(STEPS, logo="aa", other="bb") == {"/other": "is a file that no step uses; leave it out"}


def test_another_image_gives_another_step_key():
    one, same, other = (planned(STEPS, logo=sha).by_name["w"].key for sha in ("aa", "aa", "bb"))

    assert one == same != other


@pytest.mark.parametrize("script", ["Latin", "Ελληνικά", "Кириллица", "ქართული", "العربية", "עברית", "देवनागरी", "ไทย"])
def test_every_script_in_the_error_message_can_be_drawn(script):
    assert unwritable(script) is None


def test_the_error_for_a_missing_script_lists_the_available_scripts():
    assert text_rendering.__doc__ is not None
    scripts = text_rendering.__doc__.partition("FiraGO: ")[2].rstrip(".")

    assert unwritable("写真").endswith(scripts)


def test_texts_are_checked_once_for_all_builds_of_a_plan():
    document = {
        f"s{number}": {"op": "watermark", "input": "source", "text": f"{number} {3 * 'नमस्ते '}"} for number in range(50)
    }
    planned(document)
    drawn = unwritable.cache_info().misses, line_size.cache_info().misses
    planned(document)

    assert (unwritable.cache_info().misses, line_size.cache_info().misses) == drawn


def test_only_texts_have_the_version_of_the_text_renderer_in_their_identity():
    text, image = WATERMARK.params(text="a"), WATERMARK.params(image="logo")

    assert text.identity() == {"text": "a", "lettering": LETTERING}
    assert text.given() == {"text": "a"}
    assert image.identity() == {"image": "logo"}
    assert version("pymupdf-fonts") in LETTERING
    assert str(features.version("fribidi")) in LETTERING


def test_a_text_too_small_after_a_resize_is_a_fault_at_its_scale():
    document = {
        "s": {"op": "resize", "input": "source", "width": 40},
        "w": {"op": "watermark", "input": "s", "text": "© Ann"},
    }
    (found,) = faults(document)

    assert found == "/steps/w/scale"


def test_an_opaque_mark_in_its_own_size_is_drawn_unchanged():
    """With opacity 1, the pixels of the mark replace the pixels of the picture."""
    image = photo(96, 64)
    after = marked(
        background(size=(960, 384)), saved(image, "PNG"), scale=0.25, opacity=1, position="top-left", margin=0
    )

    assert np.array_equal(np.asarray(after.image)[:64, :96], image)
    assert opened(saved(image, "PNG")).size == (96, 64)


def test_every_line_is_centred_in_its_outline():
    mark = np.asarray(render_text("HEH\nHEH\nHEH", 50, "#ffffff", "left")).astype(int)
    rows = np.flatnonzero((mark[:, :, 3] > 128).any(axis=1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)

    assert len(lines) == 3
    for line in lines:
        inked = np.flatnonzero((mark[line, :, 0] > 200).any(axis=1))
        assert abs(inked[0] - (len(line) - 1 - inked[-1])) <= 1  # the outline has the same width above and below
        assert 1 <= inked[0] <= 5
