"""The file name and SHA-256 of the weights that PixTools ships. An import of this package does not load the file."""

from __future__ import annotations

SHIPPED = "dncnn-color-blind.safetensors"
"""File name of the weights in this folder."""

SHIPPED_SHA256 = "d89e1a06b429110358fa9397891a9a851089f2398b32e8ccf9896adb00a9f5fb"
"""SHA-256 of the shipped file, in hexadecimal digits. The step key of each denoising step contains this digest."""
