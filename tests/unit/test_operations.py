"""These tests check which parameters the operations accept, and what the results look like."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from images import distance, opened, photo
from PIL import Image
from pydantic import ValidationError

from pixtools.imaging.picture import Picture
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import BundleEntry, Encoder
from pixtools.operations.base.resizing import Resizing

ENCODERS = {name: operation for name, operation in OPERATIONS.items() if isinstance(operation, Encoder)}


def encoded(name: str, picture: Picture, **params: object) -> bytes:
    operation = OPERATIONS[name]
    return operation.encode(picture, operation.params(**params), 0).data


def picture(mode: str = "RGB") -> Picture:
    image = Image.fromarray(photo()).convert(mode.removesuffix("A") if mode == "LA" else mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return Picture.still(image, None)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_makes_a_file_of_its_media_type_in_the_size_of_the_picture(name, mode):
    image = opened(encoded(name, picture(mode)))

    assert Image.MIME[image.format] == OPERATIONS[name].media_type
    assert image.size == (96, 64)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoded_picture_looks_like_the_original(name):
    assert distance(opened(encoded(name, picture())), photo()) < 6


@pytest.mark.parametrize("name", ["png", "webp", "avif"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_formats_with_transparency_keep_it(name, mode):
    alpha = opened(encoded(name, picture(mode))).convert("RGBA").getchannel("A")

    assert distance(alpha, picture(mode).image.getchannel("A")) < 2


def test_transparency_becomes_white_in_a_jpg():
    clear = Picture.still(Image.new("RGBA", (16, 16), (200, 0, 0, 0)), None)

    assert distance(opened(encoded("jpg", clear)), np.full((16, 16, 3), 255)) < 2


def test_a_png_keeps_every_pixel():
    assert np.array_equal(opened(encoded("png", picture("RGBA"))), picture("RGBA").image)


def test_a_lossless_webp_keeps_every_pixel():
    assert np.array_equal(opened(encoded("webp", picture(), lossless=True)), photo())


@pytest.mark.parametrize("name", ["jpg", "webp", "avif"])
def test_a_lower_quality_gives_a_smaller_and_worse_file(name):
    low, high = encoded(name, picture(), quality=10), encoded(name, picture(), quality=90)

    assert len(low) < len(high)
    assert distance(opened(low), photo()) > distance(opened(high), photo())


def test_a_slower_avif_is_no_larger():
    assert len(encoded("avif", picture(), speed=4)) <= len(encoded("avif", picture(), speed=10))


def test_transparency_in_a_jpg_becomes_the_background_colour():
    clear = Picture.still(Image.new("RGBA", (16, 16), (200, 0, 0, 0)))

    made = opened(encoded("jpg", clear, background="#2060a0"))

    assert distance(made, np.full((16, 16, 3), (0x20, 0x60, 0xA0))) < 2


def test_transparent_grey_can_become_a_coloured_background():
    clear = Picture.still(Image.new("LA", (16, 16), (200, 0)))

    made = opened(encoded("jpg", clear, background="#2060a0"))

    assert distance(made, np.full((16, 16, 3), (0x20, 0x60, 0xA0))) < 2


@pytest.mark.parametrize(("subsampling", "factors"), [("4:2:0", (2, 2)), ("4:2:2", (2, 1)), ("4:4:4", (1, 1))])
def test_a_jpg_has_the_requested_subsampling(subsampling, factors):
    image = Image.open(io.BytesIO(encoded("jpg", picture(), subsampling=subsampling)))

    assert image.layer[0][1:3] == factors


def test_a_jpg_is_progressive_only_on_request():
    assert "progressive" not in opened(encoded("jpg", picture())).info
    assert opened(encoded("jpg", picture(), progressive=True)).info["progressive"] == 1


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("effort", ["auto", "fast", "small"])
def test_a_png_keeps_every_pixel_at_every_effort(effort, mode):
    assert np.array_equal(opened(encoded("png", picture(mode), effort=effort)), picture(mode).image)


def test_auto_effort_is_fast_for_photos_and_small_for_drawings():
    grain = np.random.default_rng(5).integers(0, 40, (300, 400, 3))
    scene = Picture.still(Image.fromarray((photo(400, 300) // 2 + grain).astype(np.uint8)))
    ruled = np.full((300, 400, 3), 255, np.uint8)
    ruled[::7, ::3] = (10, 60, 90)
    drawing = Picture.still(Image.fromarray(ruled))

    assert encoded("png", scene) == encoded("png", scene, effort="fast")
    assert encoded("png", drawing) == encoded("png", drawing, effort="small")
    assert len(encoded("png", drawing, effort="small")) < len(encoded("png", drawing, effort="fast"))


@pytest.mark.parametrize("colors", [2, 16, 256])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_palette_has_at_most_the_requested_number_of_colours(mode, colors):
    image = opened(encoded("png", picture(mode), palette=colors))

    assert image.mode == "P"
    assert len(image.getcolors()) <= colors
    assert image.convert("RGBA").getcolors(colors) is not None


def test_a_palette_of_256_colours_looks_like_the_original():
    image = opened(encoded("png", picture("RGBA"), palette=256)).convert("RGBA")

    assert distance(image, picture("RGBA").image) < 12


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_palette_with_room_for_all_colours_changes_no_pixel(mode):
    shades = np.random.default_rng(1).integers(0, 256, (200, len(mode)), np.uint8)
    few = Picture.still(Image.fromarray(shades[np.random.default_rng(2).integers(0, 200, (50, 60))]))

    assert np.array_equal(opened(encoded("png", few, palette=200)).convert(mode), few.image)


def test_the_frames_of_an_animated_png_share_a_palette():
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    moving = Picture((red, blue, red), durations=(100, 100, 100))

    image = Image.open(io.BytesIO(encoded("png", moving, palette=2)))

    assert image.n_frames == 3
    for at, frame in enumerate(moving.frames):
        image.seek(at)
        assert np.array_equal(image.convert("RGB"), frame)


@pytest.mark.parametrize("effort", range(7))
def test_a_lossless_webp_keeps_every_pixel_at_every_effort(effort):
    assert np.array_equal(opened(encoded("webp", picture(), lossless=True, effort=effort)), photo())


def test_more_effort_gives_a_smaller_webp():
    assert len(encoded("webp", picture(), effort=6)) < len(encoded("webp", picture(), effort=0))
    assert len(encoded("webp", picture(), lossless=True, effort=6)) < len(encoded("webp", picture(), lossless=True))


@pytest.mark.parametrize("encoder", ["svt", "rav1e"])
def test_an_avif_encoder_that_is_not_available_is_rejected_with_the_remedy(encoder):
    with pytest.raises(ValidationError, match=f"{encoder} is not available; leave `encoder` out") as caught:
        OPERATIONS["avif"].params.model_validate({"encoder": encoder})

    assert caught.value.errors()[0]["loc"] == ("encoder",)


def test_a_request_for_the_default_avif_encoder_is_the_same_as_no_request():
    params = OPERATIONS["avif"].params

    assert params.model_validate({"encoder": "aom"}).identity() == params().identity() == {}
    assert "encoder" not in params.model_json_schema()["properties"]


def test_preparation_steps_run_in_their_order():
    def log(name):
        return lambda picture, params: replace(picture, icc=(picture.icc or b"") + name + b"%d" % params.quality)

    encoder = replace(OPERATIONS["jpg"], preparation=(log(b"a"), log(b"b"), log(b"c")))

    assert encoder.prepare(picture(), encoder.params(quality=7)).icc == b"a7b7c7"


@pytest.mark.parametrize("name", ENCODERS)
def test_metadata_is_selected_after_the_resize(name):
    """EXIF records the size of the picture. This size must be the size after the resize."""
    steps = [step.__name__ for step in ENCODERS[name].preparation]

    assert steps.index("resize") < steps.index("select_metadata")


@pytest.mark.parametrize("name", ENCODERS)
def test_the_same_picture_gives_the_same_bytes(name):
    assert encoded(name, picture()) == encoded(name, picture())


def test_resize_scales_the_picture_to_fit_its_box():
    operation = OPERATIONS["resize"]

    assert operation.run(picture(), operation.params(width=48)).image.size == (48, 32)


def test_resize_does_not_enlarge_by_default():
    operation = OPERATIONS["resize"]

    assert operation.run(picture(), operation.params(width=4_000, height=4_000)).image.size == (96, 64)


def test_the_registry_has_operations_by_name():
    assert {"jpg", "png", "webp", "avif", "resize", "metadata", "zip"} <= OPERATIONS.keys()
    assert all(name == operation.name for name, operation in OPERATIONS.items())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pickled_as_its_name(name):
    sent = pickle.dumps(OPERATIONS[name])

    assert pickle.loads(sent) is OPERATIONS[name]
    assert len(sent) < 100


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_parameter_in_a_schema_has_a_title_and_a_description(name):
    for field in OPERATIONS[name].params.model_json_schema().get("properties", {}).values():
        assert field["title"]
        assert field["description"]


REJECTED = {
    "jpg": [
        {"quality": "85"},
        {"quality": 85.0},
        {"quality": True},
        {"quality": math.nan},
        {"quality": math.inf},
        {"quality": None},
        {"quality": [85]},
        {"quality": 0},
        {"quality": 101},
        {"subsampling": "4:1:1"},
        {"subsampling": "420"},
        {"progressive": 1},
        {"background": "white"},
        {"background": "#fff"},
        {"background": None},
        {"target": 29},
        {"target": 96},
        {"target": "70"},
        {"target": math.nan},
        {"target": 70, "quality": 70},
        {"target": 70, "quality": 85},
        {"max_bytes": 0},
        {"max_bytes": 1e6},
        {"keep_smaller": 1},
        {"quality": 10**400},
        {"Quality": 85},
        {"qualty": 85},
        {"resize": {}},
        {"resize": {"width": None}},
        {"resize": {"width": 0}},
        {"resize": {"width": "100"}},
        {"resize": {"width": 100.0}},
        {"resize": {"width": 100, "depth": 3}},
        {"resize": 100},
        {"resize": "100x100"},
    ],
    "png": [
        {"quality": 80},
        {"resize": {"height": -1}},
        {"effort": 6},
        {"effort": "best"},
        {"palette": 1},
        {"palette": 257},
        {"palette": True},
        {"target": 70},
        {"max_bytes": 1_000},
    ],
    "webp": [
        {"quality": 101},
        {"lossless": 1},
        {"lossless": "true"},
        {"lossless": None},
        {"effort": 7},
        {"effort": -1},
        {"effort": "fast"},
        {"lossless": True, "quality": 90},
        {"lossless": True, "target": 90},
        {"lossless": True, "max_bytes": 1_000},
        {"lossless": True, "keep_smaller": True},
        {"target": 80, "quality": 80},
    ],
    "avif": [
        {"speed": 11},
        {"speed": -1},
        {"speed": 9.0},
        {"quality": 0},
        {"encoder": "libaom"},
        {"encoder": None},
        {"subsampling": "4:0:0"},
        {"encoder": ["svt"]},
    ],
    "resize": [
        {},
        {"width": None, "height": None},
        {"width": 0},
        {"width": 10, "keep": 1},
        {"width": 10, "quality": 1},
    ],
    "metadata": [{"gps": True}],
    "zip": [{"level": 9}],
}


@pytest.mark.parametrize(
    ("name", "params"),
    [pytest.param(name, params, id=f"{name} {str(params)[:40]}") for name, many in REJECTED.items() for params in many],
)
def test_invalid_parameters_are_rejected_and_never_adjusted(name, params):
    with pytest.raises(ValidationError):
        OPERATIONS[name].params.model_validate(params)


ACCEPTED = {
    "jpg": [
        {},
        {"quality": 1},
        {"quality": 100, "resize": {"width": 1}},
        {"subsampling": "4:4:4", "progressive": True, "background": "#00ff7F"},
        {"target": 72.5},
        {"target": 30, "max_bytes": 1, "keep_smaller": True},
        {"quality": 70, "max_bytes": 200_000, "keep_smaller": True},
    ],
    "png": [{}, {"resize": {"width": 16_384, "height": 16_384}}, {"effort": "small", "palette": 2}, {"palette": 256}],
    "webp": [{}, {"quality": 100}, {"lossless": True, "effort": 4}, {"effort": 0}, {"target": 95, "effort": 6}],
    "avif": [
        {},
        {"quality": 1, "speed": 0},
        {"resize": {"height": 5}},
        {"speed": 10, "subsampling": "4:4:4", "target": 80},
    ],
    "resize": [{"width": 5}, {"height": 5}, {"width": 5, "height": 6, "keep": True}],
    "metadata": [{}],
    "zip": [{}],
}


@pytest.mark.parametrize(
    ("name", "params"), [(name, params) for name, many in ACCEPTED.items() for params in many], ids=str
)
def test_parameters_are_recorded_as_they_were_given(name, params):
    model = OPERATIONS[name].params.model_validate(params)

    assert model.given() == params
    assert OPERATIONS[name].params.model_validate(model.given()) == model


SIDES = [
    pytest.param("resize", {"width": 1_001}, ("width",), id="width of resize"),
    pytest.param("resize", {"height": 1_001}, ("height",), id="height of resize"),
    pytest.param("crop", {"width": 1_001, "height": 5}, ("width",), id="width of crop"),
    pytest.param("webp", {"resize": {"height": 1_001}}, ("resize", "height"), id="height in an encoder"),
]


@pytest.mark.parametrize(("name", "params", "field"), SIDES)
def test_a_side_above_the_limit_of_the_context_is_rejected_at_its_field(name, params, field):
    with pytest.raises(ValidationError) as caught:
        OPERATIONS[name].params.model_validate(params, context=Limits(pixels=10**9, side=1_000, frames=1))

    (error,) = caught.value.errors()
    assert error["loc"] == field
    assert error["msg"] == "Input should be less than or equal to 1000"


@pytest.mark.parametrize(("name", "params"), [pytest.param(*one.values[:2], id=one.id) for one in SIDES])
@pytest.mark.parametrize("limits", [Limits(pixels=1, side=1_001, frames=1), None], ids=["at the limit", "no limit"])
def test_a_side_within_the_limit_of_the_context_is_accepted(name, params, limits):
    assert OPERATIONS[name].params.model_validate(params, context=limits).given() == params


def test_without_a_context_a_side_has_a_lower_limit_only():
    assert Resizing(width=10**6).width == 10**6
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Resizing(width=0)


@pytest.mark.parametrize("name", ["resize", "crop"])
def test_the_schema_marks_sides_so_that_the_catalog_can_add_the_limit(name):
    properties = OPERATIONS[name].params.model_json_schema()["properties"]

    for field in ("width", "height"):
        schema = next(iter(properties[field].get("anyOf", [properties[field]])))
        assert (schema["type"], schema["minimum"], schema["format"]) == ("integer", 1, "side")
        assert "maximum" not in schema


def test_values_equal_to_the_default_are_not_recorded():
    params = OPERATIONS["webp"].params.model_validate(
        {"quality": 80, "lossless": False, "resize": {"width": 9, "height": None}},
    )

    assert params.given() == {"resize": {"width": 9}}


def test_parameters_cannot_be_changed():
    params = Resizing(width=10)

    with pytest.raises(ValidationError, match="frozen"):
        params.width = 20


def bundled(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    operation = OPERATIONS["zip"]
    operation.run(
        [BundleEntry(name, lambda data=data: io.BytesIO(data)) for name, data in files.items()], out, operation.params()
    )
    return out.getvalue()


FILES = {"b.webp": b"second", "a.json": b"{}", "größe.png": bytes(100_000)}


def test_a_zip_contains_its_entries_in_order():
    with zipfile.ZipFile(io.BytesIO(bundled(FILES))) as bundle:
        assert bundle.testzip() is None
        assert {name: bundle.read(name) for name in bundle.namelist()} == FILES
        assert bundle.namelist() == list(FILES)


def test_the_same_entries_give_the_same_zip():
    assert bundled(FILES) == bundled(dict(FILES))


def test_entries_of_a_zip_are_uncompressed_with_a_fixed_date_and_mode():
    with zipfile.ZipFile(io.BytesIO(bundled(FILES))) as bundle:
        for info in bundle.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o644
            assert info.compress_type == zipfile.ZIP_STORED


def test_a_zip_opens_one_entry_at_a_time():
    open_entries = 0
    peak = 0

    @contextmanager
    def counted():
        nonlocal open_entries, peak
        open_entries += 1
        peak = max(peak, open_entries)
        yield io.BytesIO(b"data")
        open_entries -= 1

    operation = OPERATIONS["zip"]
    operation.run((BundleEntry(f"{number}", counted) for number in range(5)), io.BytesIO(), operation.params())

    assert (open_entries, peak) == (0, 1)
