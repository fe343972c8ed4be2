"""Animations come out frame by frame as browsers show them, and go on with their frames, durations and loops."""

from __future__ import annotations

import io
import itertools
import struct
import time

import numpy as np
import pytest
from animations import CLEARED, RESTORED, Part, apng, colours, full, gif
from images import LIMITS, distance, opened, photo, saved, wide_gamut_profile
from PIL import Image, ImageSequence

from pixtools.errors import CorruptImage, ImageTooLarge
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode
from pixtools.imaging.geometry import flip
from pixtools.imaging.header import Limits, inspect
from pixtools.imaging.picture import Picture
from pixtools.operations import get
from pixtools.operations.base.kinds import Encoder

RED, BLUE = (250, 0, 0, 255), (0, 0, 250, 255)
CLEAR = (0, 0, 0, 0)


def frames_of(data: bytes) -> list[np.ndarray]:
    return [np.asarray(frame.convert("RGBA")) for frame in decode(data).frames]


def moving(frames: int = 4, mode: str = "RGB") -> list[Image.Image]:
    """Return a scene that shifts from frame to frame."""
    scenes = [Image.fromarray(np.roll(photo(), 9 * at, axis=1)).convert(mode) for at in range(frames)]
    if "A" in mode:
        for at, scene in enumerate(scenes):
            scene.putalpha(Image.linear_gradient("L").resize(scene.size).rotate(90 * at))
    return scenes


def animated(mode: str = "RGB", icc: bytes | None = None) -> Picture:
    return Picture(tuple(moving(4, mode)), icc, durations=(40, 120, 80, 200), loops=3)


# What is read


def test_a_gif_is_its_frames_durations_and_loops():
    picture = decode(gif((4, 3), [Part(full(1)), Part(full(2), duration=250), Part(full(3), duration=40)], again=4))

    assert (picture.size, picture.mode) == ((4, 3), "RGB")
    assert (picture.durations, picture.loops) == ((100, 250, 40), 5)
    assert [np.asarray(frame)[0, 0].tolist() for frame in picture.frames] == [[250, 0, 0], [0, 250, 0], [0, 0, 250]]


@pytest.mark.parametrize(("again", "loops"), [(None, 1), (0, 0), (1, 2)])
def test_a_gif_says_how_often_it_is_shown_again(again, loops):
    assert decode(gif((4, 3), [Part(full(1)), Part(full(2))], again=again)).loops == loops


@pytest.mark.parametrize(("delay", "shown"), [(0, 100), (10, 100), (20, 20)])
def test_a_delay_of_10_ms_or_less_is_100_as_browsers_show_it(delay, shown):
    data = gif((4, 3), [Part(full(1), duration=delay), Part(full(2), duration=delay)])

    assert decode(data).durations == (shown, shown)


def test_parts_of_a_gif_lie_over_what_stays():
    first, second, third = frames_of(
        gif((4, 3), [Part(full(1)), Part(full(2, 2, 1), left=1, top=1), Part(full(3, 1, 1), left=3, top=2)])
    )

    expected = full(1)
    assert np.array_equal(first, colours(expected))
    expected[1, 1:3] = 2
    assert np.array_equal(second, colours(expected))
    expected[2, 3] = 3
    assert np.array_equal(third, colours(expected))


def test_a_gif_clears_to_transparency_and_restores_what_was_before():
    parts = [
        Part(full(1)),
        Part(full(2, 2, 1), after=RESTORED),
        Part(full(3, 2, 2), after=CLEARED),
        Part(full(2, 1, 1), left=3, top=2),
    ]

    seen = frames_of(gif((4, 3), parts))

    assert seen[2][0, :2].tolist() == [list(BLUE)] * 2
    assert seen[2][0, 2].tolist() == list(RED)
    assert seen[3][:2, :2].reshape(-1, 4).tolist() == [list(CLEAR)] * 4
    assert seen[3][2, :3].tolist() == [list(RED)] * 3


def test_the_transparent_colour_of_a_gif_shows_the_frame_before():
    stripes = np.array([[0, 2, 0, 2]] * 3, np.uint8)

    seen = frames_of(gif((4, 3), [Part(stripes), Part(full(1, 2, 3)), Part(stripes)], transparent=0))

    assert np.array_equal(seen[0], colours(stripes, 0))
    assert seen[2][0].tolist() == [list(RED), [0, 250, 0, 255], list(CLEAR), [0, 250, 0, 255]]


def test_a_first_frame_smaller_than_the_canvas_leaves_transparency_around_it():
    (seen,) = frames_of(gif((4, 3), [Part(full(1, 1, 1), left=1, top=1)]))

    assert seen[1, 1].tolist() == list(RED)
    assert seen[0, 0].tolist() == list(CLEAR)


def test_what_reaches_beyond_the_canvas_of_a_gif_is_cut_off():
    seen = frames_of(gif((4, 3), [Part(full(1)), Part(full(2, 4, 3), left=3, top=2), Part(full(3), left=9, top=9)]))

    assert {frame.shape for frame in seen} == {(3, 4, 4)}
    assert seen[1][2, 3].tolist() == [0, 250, 0, 255]
    assert np.array_equal(seen[2], seen[1])


def test_pillow_sees_the_same_in_a_gif_of_its_own():
    shades = [frame.quantize(32) for frame in moving()]
    data = saved(shades[0], "GIF", save_all=True, append_images=shades[1:], duration=60, loop=0, disposal=2)

    theirs = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]

    for ours, other in zip(decode(data).frames, theirs, strict=True):
        assert np.array_equal(ours, other)


def test_grey_frames_stay_grey():
    data = saved(moving(2, "L")[0], "PNG", save_all=True, append_images=moving(2, "L")[1:])

    assert decode(data).mode == "L"


def rgba(*colour: int, width: int = 4, height: int = 3) -> np.ndarray:
    return np.full((height, width, 4), colour, np.uint8)


def test_an_apng_is_its_frames_durations_and_plays():
    picture = decode(apng([Part(rgba(*RED)), Part(rgba(*BLUE), duration=33)], plays=7))

    assert (picture.durations, picture.loops, picture.mode) == ((100, 33), 7, "RGB")
    assert [np.asarray(frame)[0, 0].tolist() for frame in picture.frames] == [[250, 0, 0], [0, 0, 250]]


def test_the_default_image_of_an_apng_that_is_no_frame_is_left_out():
    data = apng([Part(rgba(*RED)), Part(rgba(0, 0, 250, 0), over=True)], default=rgba(9, 9, 9, 255))

    seen = frames_of(data)

    assert inspect(io.BytesIO(data), LIMITS).frames == 2
    assert [frame[0, 0].tolist() for frame in seen] == [list(RED), list(RED)]


def test_a_default_image_before_a_single_frame_gives_a_still_of_that_frame():
    data = apng([Part(rgba(*RED))], default=rgba(9, 9, 9, 255))

    picture = decode(data)

    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    assert not picture.is_animated
    assert np.asarray(picture.image)[0, 0].tolist() == [250, 0, 0]


def test_half_transparency_of_an_apng_is_blended_over_what_is_there():
    half = rgba(0, 0, 200, 128)

    seen = frames_of(apng([Part(half), Part(half, over=True), Part(half, over=False)]))

    alpha = 128 / 255
    together = alpha + alpha * (1 - alpha)
    assert abs(int(seen[1][0, 0, 3]) - 255 * together) <= 1
    assert abs(int(seen[1][0, 0, 2]) - 200) <= 1
    assert seen[2][0, 0].tolist() == [0, 0, 200, 128]


def test_an_apng_clears_and_restores():
    parts = [
        Part(rgba(*RED)),
        Part(rgba(*BLUE, width=2, height=2), after=RESTORED),
        Part(rgba(*BLUE, width=1, height=1), left=3, after=CLEARED),
        Part(rgba(*BLUE, width=1, height=1), top=2),
    ]

    seen = frames_of(apng(parts))

    assert seen[2][:2, :2].reshape(-1, 4).tolist() == [list(RED)] * 4
    assert seen[3][0, 3].tolist() == list(CLEAR)
    assert seen[3][2, 0].tolist() == list(BLUE)


def test_an_apng_of_a_palette_clears_to_transparency():
    palette = (b"PLTE", bytes([1, 2, 3, 250, 0, 0, 0, 0, 250]))
    parts = [Part(full(1), after=CLEARED), Part(full(2, 1, 1))]

    seen = frames_of(apng(parts, colour=3, shared=(palette,)))

    assert seen[0][0, 0].tolist() == list(RED)
    assert seen[1][0, 0].tolist() == list(BLUE)
    assert seen[1][2, 2].tolist() == list(CLEAR)


def test_the_profile_of_an_animation_is_kept():
    scenes = moving()
    for kind in ("PNG", "WEBP", "AVIF"):
        data = saved(scenes[0], kind, save_all=True, append_images=scenes[1:], icc_profile=wide_gamut_profile())
        assert decode(data).icc == wide_gamut_profile()


# What is refused


def test_all_frames_count_before_one_is_decoded():
    for kind in ("GIF", "PNG", "WEBP", "AVIF"):
        data = saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50)
        assert inspect(io.BytesIO(data), Limits(4 * 96 * 64, 100, 4)).frames == 4
        with pytest.raises(ImageTooLarge, match="4 frames"):
            inspect(io.BytesIO(data), Limits(4 * 96 * 64 - 1, 100, 4))
        with pytest.raises(ImageTooLarge, match="4 frames: at most 3"):
            inspect(io.BytesIO(data), Limits(4 * 96 * 64, 100, 3))


@pytest.mark.parametrize("at", [0, 1])
def test_a_gif_whose_frames_are_larger_than_its_canvas_is_refused_before_memory_is_taken(at):
    parts = [Part(full(1)), Part(full(2))]
    data = bytearray(gif((4, 3), parts))
    place = -1
    for _ in range(at + 1):
        place = data.index(b"," + bytes(4), place + 1)
    data[place + 5 : place + 9] = struct.pack("<HH", 65_535, 65_535)

    with pytest.raises(ImageTooLarge):
        inspect(io.BytesIO(bytes(data)), LIMITS)


def test_a_webp_whose_canvas_is_huge_is_refused_before_memory_is_taken():
    data = bytearray(saved(moving()[0], "WEBP", save_all=True, append_images=moving()[1:]))
    data[24:30] = b"\xff\xff\x00\xff\xff\x00"

    with pytest.raises(ImageTooLarge, match="65536 × 65536"):
        inspect(io.BytesIO(bytes(data)), LIMITS)


def test_an_apng_that_says_less_than_it_holds_is_read_as_far_as_it_says():
    data = apng([Part(rgba(*RED)), Part(rgba(*BLUE)), Part(rgba(9, 9, 9, 255))], says=2)

    assert inspect(io.BytesIO(data), LIMITS).frames == 2
    assert len(decode(data).frames) == 2


def test_an_apng_that_says_more_than_it_holds_is_corrupt():
    with pytest.raises(CorruptImage, match="has 2 frames and says that it has 5"):
        decode(apng([Part(rgba(*RED)), Part(rgba(*BLUE))], says=5))


def test_a_frame_of_an_apng_outside_of_the_picture_is_corrupt():
    with pytest.raises(CorruptImage, match="outside"):
        decode(apng([Part(rgba(*RED)), Part(rgba(*BLUE), left=1)]))


def test_a_gif_with_a_bad_frame_in_its_middle_is_corrupt():
    parts = [Part(full(index, 60, 60)) for index in (1, 2, 3)]
    one, two, three = (bytearray(gif((60, 60), parts[:count])) for count in (1, 2, 3))
    pixels = len(one) - 1 + 8 + 11  # behind the control and the descriptor of the second
    del three[pixels + 256 : len(two) - 2]  # all of its blocks but the first and the empty last

    with pytest.raises(CorruptImage, match="truncated"):
        decode(bytes(three))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_an_animation_with_a_bad_frame_in_its_middle_is_corrupt(kind):
    data = bytearray(saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50))
    # VP8 has no checksums: only the start of a frame can be seen to be wrong.
    middle = data.index(b"VP8 ", len(data) // 2) + 8 if kind == "WEBP" else len(data) // 2
    data[middle : middle + 200] = bytes(200)

    with pytest.raises(CorruptImage):
        decode(bytes(data))


@pytest.mark.parametrize(("tail", "sound"), [(b"", True), (bytes(9), True), (b"; <script>", True), (b"garbage", False)])
def test_a_gif_may_end_with_zeros_or_anything_behind_its_trailer(tail, sound):
    data = gif((4, 3), [Part(full(1)), Part(full(2))]).removesuffix(b";") + tail

    if sound:
        assert len(decode(data).frames) == 2
    else:
        with pytest.raises(CorruptImage, match="follows frame 2"):
            decode(data)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
def test_an_animation_cut_in_its_middle_is_corrupt(kind):
    data = saved(moving()[0], kind, save_all=True, append_images=moving()[1:], duration=50)

    with pytest.raises(CorruptImage):
        decode(data[: len(data) // 2])


# What is no animation


def test_pages_of_a_tiff_are_no_animation_and_cost_nothing():
    page = Image.new("L", (8, 8), 77)
    data = saved(page, "TIFF", save_all=True, append_images=[Image.new("L", (8, 8))] * 2_000)

    started = time.process_time()
    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    picture = decode(data)

    assert time.process_time() - started < 0.2
    assert not picture.is_animated
    assert picture.image.getpixel((0, 0)) == 77


def test_further_pictures_of_a_jpeg_are_no_animation():
    data = saved(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (20, 20))])
    assert opened(data).n_frames == 2

    assert inspect(io.BytesIO(data), LIMITS).frames == 1
    assert decode(data).size == (96, 64)


# What is written

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "quality": 0, "method": 0}}


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_lossless_animations_give_back_each_frame_exactly(mode, kind):
    picture = animated(mode, wide_gamut_profile() if mode.startswith("RGB") else None)

    back = decode(encode(picture, kind, **LOSSLESS[kind]))

    assert (back.durations, back.loops, back.icc) == (picture.durations, 3, picture.icc)
    for frame, original in zip(back.frames, picture.frames, strict=True):
        assert_looks_the_same(frame, original)


def assert_looks_the_same(frame: Image.Image, original: Image.Image):
    one, other = (np.asarray(image.convert("RGBA")) for image in (frame, original))
    seen = other[..., 3] > 0  # colours under alpha 0 are nobody's
    assert np.array_equal(one[..., 3], other[..., 3])
    assert np.array_equal(one[seen], other[seen])


@pytest.mark.parametrize("kind", LOSSLESS)
def test_frames_that_change_in_part_and_turn_transparent_again_are_exact(kind):
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
def test_frames_like_the_one_before_may_go_but_the_time_they_take_does_not(kind):
    one, other = moving(2)
    picture = Picture((one, one, other, other, other, one), durations=(50, 60, 70, 80, 90, 100))

    back = decode(encode(picture, kind, quality=95))

    assert sum(back.durations) == 450
    ends = list(itertools.accumulate(back.durations))
    for moment, expected in ((20, one), (100, one), (120, other), (340, other), (360, one), (440, one)):
        shown = next(frame for frame, end in zip(back.frames, ends, strict=True) if moment < end)
        assert distance(shown, expected) < 8


def test_an_animation_of_frames_that_are_all_the_same_is_a_still():
    one = moving(1)[0]

    assert not decode(encode(Picture((one, one), durations=(50, 50)), "PNG")).is_animated


@pytest.mark.parametrize("loops", [65_535, 65_536, 4_294_967_295])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_more_loops_than_anybody_sees_are_for_ever(kind, loops):
    picture = decode(apng([Part(rgba(*RED)), Part(rgba(*BLUE))], plays=loops))

    assert decode(encode(picture, kind)).loops == (65_535 if loops == 65_535 else 0)


@pytest.mark.parametrize("name", ["png", "webp", "avif"])
@pytest.mark.parametrize(("frames", "count"), [("all", 4), ("first", 1)])
def test_an_encoder_writes_all_frames_or_the_first(name, frames, count):
    operation = get(name)
    assert isinstance(operation, Encoder)

    encoded = operation.encode(animated(), operation.params(frames=frames), 0)

    assert len(decode(encoded.data).frames) == len(encoded.picture.frames) == count


def test_a_jpg_is_of_the_first_frame_and_has_no_parameter_for_it():
    operation = get("jpg")
    assert isinstance(operation, Encoder)
    assert "frames" not in operation.params.model_fields

    encoded = operation.encode(animated(), operation.params(), 0)

    assert distance(decode(encoded.data).image, moving()[0]) < 6


def test_a_change_of_pixels_is_made_to_each_frame():
    for frame, original in zip(flip(animated(), vertical=False).frames, animated().frames, strict=True):
        assert np.array_equal(frame, np.asarray(original)[:, ::-1])


def test_an_animation_survives_the_way_through_an_array():
    array, rest = animated("RGBA").share()
    back = Picture.shared(array, rest)

    assert array.shape == (4, 64, 96, 4)
    assert (back.durations, back.loops) == ((40, 120, 80, 200), 3)
    assert all(np.array_equal(one, two) for one, two in zip(back.frames, animated("RGBA").frames, strict=True))
