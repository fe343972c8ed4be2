"""Pillow's codecs read and write AVIF. HEIF can only be read."""

from __future__ import annotations

from PIL import AvifImagePlugin, Image

from pixtools.imaging import codecs


def test_avif_uses_pillows_own_codec_with_one_thread():
    assert Image.OPEN["AVIF"][0] is AvifImagePlugin.AvifImageFile
    assert Image.SAVE["AVIF"].__module__ == "PIL.AvifImagePlugin"
    assert Image.SAVE_ALL["AVIF"].__module__ == "PIL.AvifImagePlugin"
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


def test_heif_can_be_read_but_not_written():
    assert codecs.HAS_HEIF
    assert "HEIF" in Image.OPEN
    assert "HEIF" not in Image.SAVE
