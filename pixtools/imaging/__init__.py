"""Image functions: bytes to pixels, pixels to pixels, pixels to bytes.

No function here opens a file, reads a clock or knows a setting. This package identifies, decodes and encodes the
formats, converts colours and selects metadata. Operations work with a `Picture` alone.
"""
