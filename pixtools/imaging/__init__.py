"""Functions that decode image files to pixels, change pixels, and encode pixels to image files.

The class `Picture` holds the pixels. The package also identifies formats, converts colours and selects metadata. Its
functions do not access the disk, the settings or the clock. Callers pass the content of files and the limits as
arguments.
"""
