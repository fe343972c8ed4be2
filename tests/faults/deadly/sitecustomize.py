"""Lets certain files kill the decoder of a service that starts with this folder on its PYTHONPATH.

Python imports a module named `sitecustomize` when it starts. A file that contains the bytes of `DEADLY`
causes a segmentation fault in the decoder, like a codec that writes beyond its memory.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

DEADLY = b"this file kills its decoder"


class _Infect(MetaPathFinder):
    def find_spec(self, name, path, target=None):  # noqa: ARG002 (part of the protocol)
        if name != "pixtools.imaging.decoding":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_infect(module):
            load(module)
            decode = module.decode

            def decode_or_die(data, *args, **options):
                if DEADLY in data:
                    ctypes.string_at(0)  # reads at the address 0
                return decode(data, *args, **options)

            module.decode = decode_or_die

        spec.loader.exec_module = load_and_infect
        return spec


sys.meta_path.insert(0, _Infect())
