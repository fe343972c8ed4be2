"""Sets up the codecs of all formats, and provides their versions for the step keys.

Pillow's own codecs read and write every format except HEIF. If the package pillow-heif is installed, it reads HEIF.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import PIL
from PIL import AvifImagePlugin, Image, features

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
"""Whether pillow-heif is installed. HEIC files can be read only with this package."""


def _set_up() -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # threads for decoding; one is enough, because a converter has one CPU
    if HAS_HEIF:
        _register_heif()


def _register_heif() -> None:
    import pillow_heif  # noqa: PLC0415 (an optional extra)

    # PixTools does not use thumbnails, depth maps or auxiliary images. Do not read them, because reading takes time and
    # may raise errors.
    options = pillow_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
    # Do not call register_heif_opener(). It would also register an encoder, and a check of the brands that may disagree
    # with `sniff`.
    Image.register_open("HEIF", pillow_heif.HeifImageFile)


_DECODING = 2  # increase this number when a change of the code makes files decode to other pixels than before


def _versions() -> str:
    parts = [f"decoding-{_DECODING}", f"pillow-{PIL.__version__}"]
    parts += [str(features.version(name)) for name in ("jpg", "zlib", "webp", "avif")]
    # This plugin is no longer used. But without this entry, all step keys would change, and every cached artifact would
    # be made again.
    parts += ["avif-plugin-1.6.0"]
    parts += [f"heif-{importlib.metadata.version('pillow-heif')}"] if HAS_HEIF else []
    return "-".join(parts)


CODECS = _versions()
"""Versions of all decoders and encoders. They are a part of every step key.

So artifacts that an old version of a codec made are not used again after an update.
"""

SCORER = f"ssimulacra2-{importlib.metadata.version('ssimulacra2')}"
"""Version of the library that computes scores. The keys of steps that search for a score contain this version."""

LETTERING = "-".join(
    ["fonts", importlib.metadata.version("pymupdf-fonts")]
    + [str(features.version(name)) for name in ("raqm", "fribidi", "harfbuzz", "freetype2")]
)
"""Versions of the fonts and of the libraries that shape and draw text. Keys of steps that draw text contain them."""

_set_up()
