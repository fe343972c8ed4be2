"""Real files of many cameras and encoders are decoded as their headers say, or are refused with a reason."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from images import LIMITS, distance, opened

from pixtools.errors import CorruptImage
from pixtools.imaging.decoding import decode
from pixtools.imaging.header import inspect

PHOTOS = os.environ.get("PIXTOOLS_TEST_DATA")
FOLDERS = ("avif", "heic", "orientation", "animated", "exif", "cameras")
FILES = sorted(path for folder in FOLDERS for path in Path(PHOTOS, "photos", folder).iterdir()) if PHOTOS else []

REFUSED = {  # refused because their alpha follows a draft of the AVIF standard
    "plum-blossom-small.profile0.8bpc.yuv420.alpha-full.avif",
    "plum-blossom-small.profile1.10bpc.yuv444.alpha-full.avif",
    "star-12bpc-with-alpha.avifs",
}

pytestmark = pytest.mark.skipif(PHOTOS is None, reason="needs photos: set PIXTOOLS_TEST_DATA to their folder")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_file_is_decoded_as_its_header_declares_or_refused_with_the_reason(path):
    data = path.read_bytes()
    if path.name in REFUSED:
        with pytest.raises(CorruptImage, match="AVIF files with transparency"):
            decode(data)
        return

    header, picture = inspect(io.BytesIO(data), LIMITS), decode(data)

    assert (header.width, header.height, header.frames) == (*picture.size, len(picture.frames))
    assert np.asarray(picture.image).std() > 10


@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_one_scene_stored_in_eight_orientations_looks_the_same(scene):
    small = [
        decode(Path(PHOTOS, "photos", "orientation", f"{scene}_{orientation}.jpg").read_bytes()).image.resize((90, 90))
        for orientation in range(1, 9)
    ]

    # The photos differ only in a number that is drawn on each photo.
    assert max(distance(other, small[0]) for other in small) < 12


def test_avif_files_of_8_10_and_12_bits_show_the_same_fox():
    folder = Path(PHOTOS, "photos", "avif") if PHOTOS else Path()
    one, other, third = (
        decode((folder / f"fox.{name}.avif").read_bytes()).image
        for name in ("profile0.8bpc.yuv420", "profile0.10bpc.yuv420", "profile2.12bpc.yuv444")
    )

    assert distance(one, other) < 3
    assert distance(one, third) < 3


def test_the_profile_of_an_avif_is_kept():
    data = Path(PHOTOS, "photos", "avif", "red-at-12-oclock-with-color-profile-8bpc.avif").read_bytes()

    assert decode(data).icc == opened(data).info["icc_profile"]
