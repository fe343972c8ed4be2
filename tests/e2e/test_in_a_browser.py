"""A real browser shows encoded files. Its decoders and its colour management are independent of Pillow.

These tests need no service. They encode each file in this process, draw it on an sRGB canvas and read the pixels.
"""

from __future__ import annotations

import base64

import numpy as np
import pytest
from chromium import chromium, needs_chromium
from color_math import Pixels
from likeness import likeness
from specimens import DURATIONS, SPECIMENS

from pixtools.imaging.decoding import decode
from pixtools.operations import OPERATIONS

pytestmark = needs_chromium

DRAW = """async ([type, data]) => {
  const blob = await (await fetch(`data:${type};base64,${data}`)).blob();
  const image = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext('2d', {colorSpace: 'srgb'});
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  return [image.width, image.height, Array.from(pixels)];
}"""

FRAMES = """async ([type, data]) => {
  const blob = await (await fetch(`data:${type};base64,${data}`)).blob();
  const decoder = new ImageDecoder({type, data: blob.stream()});
  await decoder.completed;
  const track = decoder.tracks.selectedTrack;
  const durations = [];
  for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex++) {
    durations.push((await decoder.decode({frameIndex})).image.duration / 1000);
  }
  return durations;
}"""


@pytest.fixture(scope="module")
def page():
    """A page that can use canvas and ImageDecoder."""
    with chromium("--force-color-profile=srgb") as browser:
        page = browser.new_page()
        # ImageDecoder exists only on https pages. The route answers requests for this page, so no network is needed.
        page.route("https://canvas.test/", lambda route: route.fulfill(body="<title>A canvas</title>"))
        page.goto("https://canvas.test/")
        yield page


def encoded(kind: str, op: str, **params: object) -> list[str]:
    """Encode a specimen with an operation. Return the media type of the file and its data in base64."""
    operation, data = OPERATIONS[op], SPECIMENS[kind]().data
    file = operation.encode(decode(data), operation.params(**params), len(data)).data
    return [operation.media_type, base64.b64encode(file).decode()]


def drawn(page, file: list[str]) -> Pixels:
    """Return the pixels that the browser draws from a file: uint8 (H, W, 4), sRGB with alpha."""
    width, height, numbers = page.evaluate(DRAW, file)
    return np.array(numbers, dtype=np.uint8).reshape(height, width, 4)


@pytest.mark.parametrize("op", ["jpg", "png", "webp", "avif"])
@pytest.mark.parametrize("color", ["keep", "srgb"])
@pytest.mark.parametrize("kind", ["jpeg display p3", "jpeg adobe rgb", "jpeg cmyk with profile", "png 16 bit rgb"])
def test_a_browser_shows_the_colors_of_the_scene(page, kind, op, color):
    shown = drawn(page, encoded(kind, op, color=color))[..., :3]

    similarity = likeness(shown, SPECIMENS[kind]().frames[0])
    assert similarity.score > 52, str(similarity)
    assert similarity.shift < 1.5, str(similarity)


STRETCHED = pytest.mark.xfail(
    reason="Chromium 156 decodes the alpha of an AVIF as limited range, although the file declares full range"
)


@pytest.mark.parametrize("op", ["png", "webp", pytest.param("avif", marks=STRETCHED)])
def test_a_browser_shows_the_alpha_of_the_scene(page, op):
    shown = drawn(page, encoded("png rgba", op))

    assert np.abs(shown[..., 3].astype(int) - SPECIMENS["png rgba"]().frames[0][..., 3]).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_browser_shows_pictures_upright(page, orientation):
    shown = drawn(page, encoded(f"jpeg turned {orientation}", "avif"))[..., :3]

    assert likeness(shown, SPECIMENS["jpeg 4:2:0"]().frames[0]).score > 52


@pytest.mark.parametrize("op", ["png", "webp", "avif"])
@pytest.mark.parametrize("kind", ["gif animated", "webp animated", "png animated", "avif animated"])
def test_an_animation_has_all_frames_with_their_durations(page, kind, op):
    assert page.evaluate(FRAMES, encoded(kind, op)) == list(DURATIONS)


@pytest.mark.parametrize("op", ["png", "webp", "avif"])
def test_only_the_first_frame_is_kept_if_asked_for(page, op):
    assert len(page.evaluate(FRAMES, encoded("gif animated", op, frames="first"))) == 1
