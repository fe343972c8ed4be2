"""Sets up the codecs of all formats, and names their versions for the step keys.

Pillow's own codecs read and write every format. Only HEIF comes from another package: pillow-heif reads it, if that is
installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import PIL
from PIL import AvifImagePlugin, Image, features

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
"""Whether pillow-heif is installed, so that HEIC files can be read."""


def _set_up() -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoding threads: a converter owns one CPU
    if HAS_HEIF:
        _register_heif()


def _register_heif() -> None:
    import pillow_heif  # noqa: PLC0415 (an optional extra)

    # Thumbnails, depth maps and auxiliary images are not used. Not reading them avoids their errors and their cost.
    options = pillow_heif.options
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    options.DECODE_THREADS = 1
    # Not register_heif_opener(): it would also register an encoder, and a check of brands that competes with `sniff`.
    Image.register_open("HEIF", pillow_heif.HeifImageFile)


_DECODING = 2  # increase it whenever this package decodes files to other pixels than before


def _versions() -> str:
    parts = [f"decoding-{_DECODING}", f"pillow-{PIL.__version__}"]
    parts += [str(features.version(name)) for name in ("jpg", "zlib", "webp", "avif")]
    parts += ["avif-plugin-1.6.0"]  # no longer used; without it every artifact in the cache would be made anew
    parts += [f"heif-{importlib.metadata.version('pillow-heif')}"] if HAS_HEIF else []
    return "-".join(parts)


CODECS = _versions()
"""Versions of all decoders and encoders. Part of every step key, so that a new codec does not reuse old artifacts."""

SCORER = f"ssimulacra2-{importlib.metadata.version('ssimulacra2')}"
"""Version of the library that computes scores. Part of the keys of steps that search for a score."""

LETTERING = "-".join(
    ["fonts", importlib.metadata.version("pymupdf-fonts")]
    + [str(features.version(name)) for name in ("raqm", "fribidi", "harfbuzz", "freetype2")]
)
"""Versions of the fonts and of the libraries that draw and shape text. Part of the keys of steps that draw text."""

_set_up()
