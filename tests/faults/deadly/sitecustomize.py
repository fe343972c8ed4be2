"""Gives the decoder of a service that is started with this folder on its PYTHONPATH a file that it dies of.

Python imports a module of this name by itself. The file is any that has the words of `DEADLY` in it; what happens is
what a codec does that writes where it should not.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

DEADLY = b"this file kills its decoder"


class _Infect(MetaPathFinder):
    def find_spec(self, name, path, target=None):  # noqa: ARG002 (its place in the protocol)
        if name != "pixtools.imaging.decoding":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_infect(module):
            load(module)
            decode = module.decode

            def decode_or_die(data, *rest, **how):
                if DEADLY in data:
                    os.kill(os.getpid(), signal.SIGSEGV)
                return decode(data, *rest, **how)

            module.decode = decode_or_die

        spec.loader.exec_module = load_and_infect
        return spec


sys.meta_path.insert(0, _Infect())
