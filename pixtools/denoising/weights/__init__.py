"""The file names and SHA-256 of the weights that PixTools ships. An import of this package loads no file."""

from __future__ import annotations

SHIPPED = "dncnn-color-blind.safetensors"
"""File name of the weights for photos, in this folder."""

SHIPPED_SHA256 = "4ba0612805f73aa2d9f1f803643da307b58c0a437d4891ab1e6f5b5de5ec6679"
"""SHA-256 of the file for photos, in hexadecimal digits. The key of a `denoise` step contains the digest of the weights
that the step uses."""

WHITE = "dncnn-white-noise.safetensors"
"""File name of the weights for white noise, in this folder."""

WHITE_SHA256 = "c7bd118c2887b8a031b49e15325f82cda7e517021549f205546c3f03614d63b7"
"""SHA-256 of the file for white noise, in hexadecimal digits."""
