"""Which codec opens and which writes each format, decided once.

Pillow finds its codecs by the name of the format, and of two that register one name the later wins. `AVIF` is
Pillow's own here, for reading and writing. `AVIF_PLUGIN` writes AVIF by pillow-avif-plugin, whose libavif has the
encoders `svt` and `rav1e` beside `aom`: `encode(picture, AVIF_PLUGIN, codec="svt", …)`. `HEIF` is only read, and only
where pillow-heif is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

import PIL
from PIL import AvifImagePlugin, Image, features
from pillow_avif import AvifImagePlugin as PluginAvif  # registers itself, over Pillow's own

AVIF_PLUGIN = "AVIF-PLUGIN"

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None


def _register() -> None:
    # ruff: noqa: SLF001 (Pillow offers no other way to name a codec)
    Image.register_open("AVIF", AvifImagePlugin.AvifImageFile, AvifImagePlugin._accept)
    Image.register_save("AVIF", AvifImagePlugin._save)
    Image.register_save_all("AVIF", AvifImagePlugin._save_all)
    Image.register_save(AVIF_PLUGIN, PluginAvif._save)
    Image.register_save_all(AVIF_PLUGIN, PluginAvif._save_all)
    os.environ.setdefault("SVT_LOG", "1")  # errors only: svt tells stderr of each picture that it encodes
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # to decode: a converter holds one CPU
    if HAS_HEIF:
        _register_heif()


def _register_heif() -> None:
    import pillow_heif  # noqa: PLC0415 (an optional extra)

    # What lies beside the picture in its file stays unread: less to go wrong, and nobody asks for it.
    options = pillow_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
    # Not register_heif_opener(), which would write HEIF too, and claims files by their brands before `sniff` has.
    Image.register_open("HEIF", pillow_heif.HeifImageFile)


_DECODING = 2  # counts changes of what we make of what they decode


def _versions() -> str:
    """Return what encodes and decodes here, with versions."""
    parts = [f"decoding-{_DECODING}", f"pillow-{PIL.__version__}"]
    parts += [str(features.version(name)) for name in ("jpg", "zlib", "webp", "avif")]
    parts += [f"avif-plugin-{importlib.metadata.version('pillow-avif-plugin')}"]
    parts += [f"heif-{importlib.metadata.version('pillow-heif')}"] if HAS_HEIF else []
    return "-".join(parts)


CODECS = _versions()
"""What decoded and encoded a file: part of every step key, so that a new codec is not answered from old artifacts."""

SCORER = f"ssimulacra2-{importlib.metadata.version('ssimulacra2')}"
"""What decided which quality reaches a score: part of the step keys of those that ask for one."""

LETTERING = "-".join(
    ["fonts", importlib.metadata.version("pymupdf-fonts")]
    + [str(features.version(name)) for name in ("raqm", "fribidi", "harfbuzz", "freetype2")]
)
"""What drew text, and whether it could be shaped: part of the step keys of those that write some."""

_register()
