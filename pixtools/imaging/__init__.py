"""Pictures as pure functions: bytes to pixels, pixels to pixels, pixels to bytes.

Nothing here reads a file, a clock or a setting. What a format is, how it is decoded, what its colours mean and what
of its metadata goes on are decided here, once each, so that operations deal with a `Picture` and nothing else.
"""
