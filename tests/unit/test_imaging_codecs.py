"""One codec for each name, whatever else was imported."""

from __future__ import annotations

import pillow_avif  # noqa: F401 (it would register itself)
import pytest
from images import distance, photo
from PIL import AvifImagePlugin, Image

from pixtools.imaging.codecs import AVIF_PLUGIN
from pixtools.imaging.decoding import decode
from pixtools.imaging.encoding import encode
from pixtools.imaging.picture import Picture


def test_avif_is_pillows_own():
    assert Image.OPEN["AVIF"][0] is AvifImagePlugin.AvifImageFile
    assert Image.SAVE["AVIF"].__module__ == "PIL.AvifImagePlugin"
    assert Image.SAVE_ALL["AVIF"].__module__ == "PIL.AvifImagePlugin"


@pytest.mark.parametrize("codec", ["aom", "svt", "rav1e"])
def test_the_plugin_writes_by_three_encoders_under_a_name_of_its_own(codec, capfd):
    data = encode(Picture.still(Image.fromarray(photo(256, 256))), AVIF_PLUGIN, codec=codec, quality=90, speed=8)

    assert distance(decode(data).image, photo(256, 256)) < 6
    assert "Svt[info]" not in capfd.readouterr().err


def test_heif_is_read_and_not_written():
    assert "HEIF" in Image.OPEN
    assert "HEIF" not in Image.SAVE
