"""Functions that decode image files to pixels, change pixels, and encode pixels to image files.

The class `Picture` holds the pixels. The package also identifies formats, converts colours and selects metadata. Its
functions open no image files, and read no settings and no clock: callers pass data and limits as arguments.
"""
