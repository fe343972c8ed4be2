"""Decoding an animation gives the frames that browsers show. Encoding keeps frames, durations and loops."""

from __future__ import annotations

import io
import itertools
import struct
import time

import numpy as np
import pytest
from animations import CLEAR, RESTORE, Frame, apng, colours, filled, gif
from images import LIMITS, distance, opened, photo, saved, wide_gamut_profile
from PIL import Image, ImageSequence

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode
from pixtools.imaging.geometry import flip
from pixtools.imaging.header import inspect
from pixtools.imaging.picture import Picture
from pixtools.limits import Limits
from pixtools.operations import get
from pixtools.operations.base.kinds import Encoder

RED, BLUE = (250, 0, 0, 255), (0, 0, 250, 255)
TRANSPARENT = (0, 0, 0, 0)


def frames_of(data: bytes) -> list[np.ndarray]:
    return [np.asarray(frame.convert("RGBA")) for frame in decode(data).frames]


def moving(frames: int = 4, mode: str = "RGB") -> list[Image.Image]:
    """Return frames of one scene, which is shifted further in each frame."""
    scenes = [Image.fromarray(np.roll(photo(), 9 * at, axis=1)).convert(mode) for at in range(frames)]
    if "A" in mode:
        for at, scene in enumerate(scenes):
            scene.putalpha(Image.linear_gradient("L").resize(scene.size).rotate(90 * at))
    return scenes


def animated(mode: str = "RGB", icc: bytes | None = None) -> Picture:
    return Picture(tuple(moving(4, mode)), icc, durations=(40, 120, 80, 200), loops=3)


# Decoding


def test_a_gif_is_decoded_with_frames_durations_and_loops():
    picture = decode(
        gif((4, 3), [Frame(filled(1)), Frame(filled(2), duration=250), Frame(filled(3), duration=40)], repeats=4)
    )

    assert (picture.size, picture.mode) == ((4, 3), "RGB")
    assert (picture.durations, picture.loops) == ((100, 250, 40), 5)
    assert [np.asarray(frame)[0, 0].tolist() for frame in picture.frames] == [[250, 0, 0], [0, 250, 0], [0, 0, 250]]


@pytest.mark.parametrize(("repeats", "loops"), [(None, 1), (0, 0), (1, 2)])
def test_a_gif_stores_how_often_it_is_repeated(repeats, loops):
    assert decode(gif((4, 3), [Frame(filled(1)), Frame(filled(2))], repeats=repeats)).loops == loops


@pytest.mark.parametrize(("delay", "shown"), [(0, 100), (10, 100), (20, 20)])
def test_a_delay_of_10_ms_or_less_becomes_100_ms_as_in_browsers(delay, shown):
    data = gif((4, 3), [Frame(filled(1), duration=delay), Frame(filled(2), duration=delay)])

    assert decode(data).durations == (shown, shown)


def test_frames_of_a_gif_are_drawn_over_the_frames_before():
    first, second, third = frames_of(
        gif((4, 3), [Frame(filled(1)), Frame(filled(2, 2, 1), left=1, top=1), Frame(filled(3, 1, 1), left=3, top=2)])
    )

    expected = filled(1)
    assert np.array_equal(first, colours(expected))
    expected[1, 1:3] = 2
    assert np.array_equal(second, colours(expected))
    expected[2, 3] = 3
    assert np.array_equal(third, colours(expected))


def test_the_disposals_of_a_gif_clear_to_transparency_and_restore_the_canvas():
    layers = [
        Frame(filled(1)),
        Frame(filled(2, 2, 1), disposal=RESTORE),
        Frame(filled(3, 2, 2), disposal=CLEAR),
        Frame(filled(2, 1, 1), left=3, top=2),
    ]

    seen = frames_of(gif((4, 3), layers))

    assert seen[2][0, :2].tolist() == [list(BLUE)] * 2
    assert seen[2][0, 2].tolist() == list(RED)
    assert seen[3][:2, :2].reshape(-1, 4).tolist() == [list(TRANSPARENT)] * 4
    assert seen[3][2, :3].tolist() == [list(RED)] * 3


def test_the_transparent_colour_of_a_gif_shows_the_frame_before():
    stripes = np.array([[0, 2, 0, 2]] * 3, np.uint8)

    seen = frames_of(gif((4, 3), [Frame(stripes), Frame(filled(1, 2, 3)), Frame(stripes)], transparent=0))

    assert np.array_equal(seen[0], colours(stripes, 0))
    assert seen[2][0].tolist() == [list(RED), [0, 250, 0, 255], list(TRANSPARENT), [0, 250, 0, 255]]


def test_a_first_frame_smaller_than_the_canvas_leaves_transparency_around_it():
    (seen,) = frames_of(gif((4, 3), [Frame(filled(1, 1, 1), left=1, top=1)]))

    assert seen[1, 1].tolist() == list(RED)
    assert seen[0, 0].tolist() == list(TRANSPARENT)


def test_a_frame_of_a_gif_is_cut_off_at_the_canvas():
    seen = frames_of(
        gif((4, 3), [Frame(filled(1)), Frame(filled(2, 4, 3), left=3, top=2), Frame(filled(3), left=9, top=9)])
    )

    assert {frame.shape for frame in seen} == {(3, 4, 4)}
    assert seen[1][2, 3].tolist() == [0, 250, 0, 255]
    assert np.array_equal(seen[2], seen[1])


def test_a_gif_that_pillow_wrote_is_decoded_as_pillow_decodes_it():
    shades = [frame.quantize(32) for frame in moving()]
    data = saved(shades[0], "GIF", save_all=True, append_images=shades[1:], duration=60, loop=0, disposal=2)

    by_pillow = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]

    for frame, expected in zip(decode(data).frames, by_pillow, strict=True):
        assert np.array_equal(frame, expected)


def test_grey_frames_stay_grey():
    data = saved(moving(2, "L")[0], "PNG", save_all=True, append_images=moving(2, "L")[1:])

    assert decode(data).mode == "L"


def rgba(*colour: int, width: int = 4, height: int = 3) -> np.ndarray:
    return np.full((height, width, 4), colour, np.uint8)


def test_an_apng_is_decoded_with_frames_durations_and_loops():
    picture = decode(apng([Frame(rgba(*RED)), Frame(rgba(*BLUE), duration=33)], plays=7))

    assert (picture.durations, picture.loops, picture.mode) == ((100, 33), 7, "RGB")
    assert [np.asarray(frame)[0, 0].tolist() for frame in picture.frames] == [[250, 0, 0], [0, 0, 250]]


def test_a_default_image_outside_the_animation_is_left_out():
    data = apng([Frame(rgba(*RED)), Frame(rgba(0, 0, 250, 0), blends=True)], default=rgba(9, 9, 9, 255))

    seen = frames_of(data)

    assert inspect(io.BytesIO(data), LIMITS).frames == 2
    assert [frame[0, 0].tolist() for frame in seen] == [list(RED), list(RED)]


def test_a_default_image_before_a_single_frame_gives_a_still_of_that_frame():
    data = apng([Frame(rgba(*RED))], default=rgba(9, 9, 9, 255))

    picture = decode(data)

    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    assert not picture.is_animated
    assert np.asarray(picture.image)[0, 0].tolist() == [250, 0, 0]


def test_half_transparent_pixels_of_an_apng_are_blended_with_the_canvas():
    half = rgba(0, 0, 200, 128)

    seen = frames_of(apng([Frame(half), Frame(half, blends=True), Frame(half, blends=False)]))

    alpha = 128 / 255
    blended = alpha + alpha * (1 - alpha)
    assert abs(int(seen[1][0, 0, 3]) - 255 * blended) <= 1
    assert abs(int(seen[1][0, 0, 2]) - 200) <= 1
    assert seen[2][0, 0].tolist() == [0, 0, 200, 128]


def test_the_disposals_of_an_apng_clear_and_restore():
    layers = [
        Frame(rgba(*RED)),
        Frame(rgba(*BLUE, width=2, height=2), disposal=RESTORE),
        Frame(rgba(*BLUE, width=1, height=1), left=3, disposal=CLEAR),
        Frame(rgba(*BLUE, width=1, height=1), top=2),
    ]

    seen = frames_of(apng(layers))

    assert seen[2][:2, :2].reshape(-1, 4).tolist() == [list(RED)] * 4
    assert seen[3][0, 3].tolist() == list(TRANSPARENT)
    assert seen[3][2, 0].tolist() == list(BLUE)


def test_an_apng_with_a_palette_clears_to_transparency():
    palette = (b"PLTE", bytes([1, 2, 3, 250, 0, 0, 0, 0, 250]))
    layers = [Frame(filled(1), disposal=CLEAR), Frame(filled(2, 1, 1))]

    seen = frames_of(apng(layers, colour=3, shared=(palette,)))

    assert seen[0][0, 0].tolist() == list(RED)
    assert seen[1][0, 0].tolist() == list(BLUE)
    assert seen[1][2, 2].tolist() == list(TRANSPARENT)


def test_the_profile_of_an_animation_is_kept():
    scenes = moving()
    for kind in ("PNG", "WEBP", "AVIF"):
        data = saved(scenes[0], kind, save_all=True, append_images=scenes[1:], icc_profile=wide_gamut_profile())
        assert decode(data).icc == wide_gamut_profile()


# Files that are refused


def test_the_pixels_of_all_frames_are_counted_before_decoding():
    for kind in ("GIF", "PNG", "WEBP", "AVIF"):
        data = saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50)
        assert inspect(io.BytesIO(data), Limits(4 * 96 * 64, 100, 4)).frames == 4
        with pytest.raises(ImageTooLarge, match="4 frames"):
            inspect(io.BytesIO(data), Limits(4 * 96 * 64 - 1, 100, 4))
        with pytest.raises(ImageTooLarge, match="4 frames, but the limit is 3"):
            inspect(io.BytesIO(data), Limits(4 * 96 * 64, 100, 3))


@pytest.mark.parametrize("at", [0, 1])
def test_a_gif_with_a_huge_frame_is_refused_before_memory_is_allocated(at):
    layers = [Frame(filled(1)), Frame(filled(2))]
    data = bytearray(gif((4, 3), layers))
    frame = -1
    for _ in range(at + 1):
        frame = data.index(b"," + bytes(4), frame + 1)
    data[frame + 5 : frame + 9] = struct.pack("<HH", 65_535, 65_535)

    with pytest.raises(ImageTooLarge):
        inspect(io.BytesIO(bytes(data)), LIMITS)


def test_a_webp_with_a_huge_canvas_is_refused_before_memory_is_allocated():
    data = bytearray(saved(moving()[0], "WEBP", save_all=True, append_images=moving()[1:]))
    data[24:30] = b"\xff\xff\x00\xff\xff\x00"

    with pytest.raises(ImageTooLarge, match="65536 × 65536"):
        inspect(io.BytesIO(bytes(data)), LIMITS)


def test_an_apng_with_more_frames_than_declared_is_decoded_up_to_the_declared_number():
    data = apng([Frame(rgba(*RED)), Frame(rgba(*BLUE)), Frame(rgba(9, 9, 9, 255))], declared=2)

    assert inspect(io.BytesIO(data), LIMITS).frames == 2
    assert len(decode(data).frames) == 2


def test_an_apng_with_fewer_frames_than_declared_is_corrupt():
    with pytest.raises(CorruptImage, match="has 2 frames but declares 5"):
        decode(apng([Frame(rgba(*RED)), Frame(rgba(*BLUE))], declared=5))


def test_a_frame_of_an_apng_that_extends_beyond_the_picture_is_corrupt():
    with pytest.raises(CorruptImage, match="extends beyond"):
        decode(apng([Frame(rgba(*RED)), Frame(rgba(*BLUE), left=1)]))


def test_a_gif_with_a_damaged_frame_in_its_middle_is_corrupt():
    layers = [Frame(filled(index, 60, 60)) for index in (1, 2, 3)]
    one, two, three = (bytearray(gif((60, 60), layers[:count])) for count in (1, 2, 3))
    pixels = len(one) - 1 + 8 + 11  # the second frame has a control extension and a descriptor before its pixels
    del three[pixels + 256 : len(two) - 2]  # the first block and the empty last block remain

    with pytest.raises(CorruptImage, match="truncated"):
        decode(bytes(three))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_an_animation_with_a_damaged_frame_in_its_middle_is_corrupt(kind):
    data = bytearray(saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50))
    # VP8 has no checksums, so the decoder notices damage only at the start of a frame.
    middle = data.index(b"VP8 ", len(data) // 2) + 8 if kind == "WEBP" else len(data) // 2
    data[middle : middle + 200] = bytes(200)

    with pytest.raises(CorruptImage):
        decode(bytes(data))


@pytest.mark.parametrize(("tail", "valid"), [(b"", True), (bytes(9), True), (b"; <script>", True), (b"garbage", False)])
def test_a_gif_may_end_with_zeros_or_with_any_bytes_after_its_trailer(tail, valid):
    data = gif((4, 3), [Frame(filled(1)), Frame(filled(2))]).removesuffix(b";") + tail

    if valid:
        assert len(decode(data).frames) == 2
    else:
        with pytest.raises(CorruptImage, match="follow frame 2"):
            decode(data)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_half_of_an_animation_is_corrupt(kind):
    data = saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50)

    with pytest.raises(CorruptImage):
        decode(data[: len(data) // 2])


# Files with several pictures that are not animations


@pytest.mark.heavy
def test_only_the_first_page_of_a_tiff_is_read_and_the_others_cost_nothing():
    page = Image.new("L", (8, 8), 77)
    data = saved(page, "TIFF", save_all=True, append_images=[Image.new("L", (8, 8))] * 2_000)

    started = time.process_time()
    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    picture = decode(data)

    assert time.process_time() - started < 0.2
    assert not picture.is_animated
    assert picture.image.getpixel((0, 0)) == 77


def test_only_the_first_picture_of_a_jpeg_is_read():
    data = saved(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert opened(data).n_frames == 2

    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    assert decode(data).size == (96, 64)


# Encoding

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "quality": 0, "method": 0}}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_lossless_animation_returns_each_frame_exactly(mode, kind):
    picture = animated(mode, wide_gamut_profile() if mode.startswith("RGB") else None)

    back = decode(encode(picture, kind, **LOSSLESS[kind]))

    assert (back.durations, back.loops, back.icc) == (picture.durations, 3, picture.icc)
    for frame, original in zip(back.frames, picture.frames, strict=True):
        assert_looks_the_same(frame, original)


def assert_looks_the_same(frame: Image.Image, original: Image.Image):
    one, other = (np.asarray(image.convert("RGBA")) for image in (frame, original))
    visible = other[..., 3] > 0  # the colours of transparent pixels do not matter
    assert np.array_equal(one[..., 3], other[..., 3])
    assert np.array_equal(one[visible], other[visible])


@pytest.mark.parametrize("kind", LOSSLESS)
def test_frames_that_change_partly_and_become_transparent_again_are_exact(kind):
    frames = []
    for at in range(5):
        pixels = np.zeros((30, 40, 4), np.uint8)
        pixels[5 * at : 5 * at + 10, 7 * at : 7 * at + 8] = (200, 10 * at, 90, 255 if at % 2 else 120)
        frames.append(Image.fromarray(pixels))
    picture = Picture(tuple(frames), durations=(50,) * 5)

    back = decode(encode(picture, kind, **LOSSLESS[kind]))

    for frame, original in zip(back.frames, frames, strict=True):
        assert_looks_the_same(frame, original)


@pytest.mark.parametrize(("kind", "loops"), [("PNG", 5), ("WEBP", 5), ("AVIF", 0)])
def test_a_gif_goes_on_with_frames_durations_and_loops(kind, loops):
    shades = [frame.quantize(64) for frame in moving()]
    source = saved(
        shades[0], "GIF", save_all=True, append_images=shades[1:], duration=[40, 120, 80, 200], loop=4
    )  # fmt: skip

    written = encode(decode(source), kind, quality=95)

    back = decode(written)
    assert inspect(io.BytesIO(written), LIMITS).frames == 4
    assert (back.durations, back.loops) == ((40, 120, 80, 200), loops)
    for frame, shade in zip(back.frames, shades, strict=True):
        assert distance(frame.convert("RGB"), shade.convert("RGB")) < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_a_frame_that_equals_the_one_before_may_be_merged_with_it_but_its_time_is_kept(kind):
    one, other = moving(2)
    picture = Picture((one, one, other, other, other, one), durations=(50, 60, 70, 80, 90, 100))

    back = decode(encode(picture, kind, quality=95))

    assert sum(back.durations) == 450
    ends = list(itertools.accumulate(back.durations))
    for moment, expected in ((20, one), (100, one), (120, other), (340, other), (360, one), (440, one)):
        shown = next(frame for frame, end in zip(back.frames, ends, strict=True) if moment < end)
        assert distance(shown, expected) < 8


def test_an_animation_of_equal_frames_becomes_a_still():
    one = moving(1)[0]

    assert not decode(encode(Picture((one, one), durations=(50, 50)), "PNG")).is_animated


@pytest.mark.parametrize("loops", [65_535, 65_536, 4_294_967_295])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_more_loops_than_65535_become_loops_without_end(kind, loops):
    picture = decode(apng([Frame(rgba(*RED)), Frame(rgba(*BLUE))], plays=loops))

    assert decode(encode(picture, kind)).loops == (65_535 if loops == 65_535 else 0)


@pytest.mark.parametrize("name", ["png", "webp", "avif"])
@pytest.mark.parametrize(("frames", "count"), [("all", 4), ("first", 1)])
def test_an_encoder_writes_all_frames_or_the_first_one(name, frames, count):
    operation = get(name)
    assert isinstance(operation, Encoder)

    encoded = operation.encode(animated(), operation.params(frames=frames), 0)

    assert len(decode(encoded.data).frames) == len(encoded.picture.frames) == count


def test_a_jpg_has_the_first_frame_and_no_parameter_for_frames():
    operation = get("jpg")
    assert isinstance(operation, Encoder)
    assert "frames" not in operation.params.model_fields

    encoded = operation.encode(animated(), operation.params(), 0)

    assert distance(decode(encoded.data).image, moving()[0]) < 6


def test_an_operation_changes_every_frame():
    for frame, original in zip(flip(animated(), vertical=False).frames, animated().frames, strict=True):
        assert np.array_equal(frame, np.asarray(original)[:, ::-1])


def test_an_animation_is_shared_as_an_array_without_loss():
    pixels, description = animated("RGBA").share()
    back = Picture.shared(pixels, description)

    assert pixels.shape == (4, 64, 96, 4)
    assert (back.durations, back.loops) == ((40, 120, 80, 200), 3)
    assert all(np.array_equal(one, two) for one, two in zip(back.frames, animated("RGBA").frames, strict=True))
