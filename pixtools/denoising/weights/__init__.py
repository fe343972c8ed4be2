"""The file name and SHA-256 of the weights that PixTools ships. An import of this package does not load the file."""

from __future__ import annotations

SHIPPED = "dncnn-color-blind.safetensors"
"""File name of the weights in this folder."""

SHIPPED_SHA256 = "4ba0612805f73aa2d9f1f803643da307b58c0a437d4891ab1e6f5b5de5ec6679"
"""SHA-256 of the shipped file, in hexadecimal digits. The step key of each denoising step contains this digest."""
