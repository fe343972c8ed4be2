"""The file name and SHA-256 of the weights that PixTools ships. An import of this package does not load the file."""

from __future__ import annotations

SHIPPED = "dncnn-color-blind.safetensors"
"""File name of the weights in this folder."""

SHIPPED_SHA256 = "c7bd118c2887b8a031b49e15325f82cda7e517021549f205546c3f03614d63b7"
"""SHA-256 of the shipped file, in hexadecimal digits. The step key of each denoising step contains this digest."""
