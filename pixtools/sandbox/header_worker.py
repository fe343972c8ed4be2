"""Reads the headers of image files in a sandboxed process, because opening a hostile file may take long or crash.

The parent sends the Limits and then the open file. The answer is a HeaderAnswer in JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from typing import IO, Annotated, Literal

from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt

from pixtools import memory
from pixtools.errors import CorruptImage, ImageTooLarge, PixToolsError, UnsupportedType
from pixtools.imaging.formats import MEDIA_TYPES
from pixtools.imaging.header import inspect
from pixtools.limits import Limits
from pixtools.sandbox import files

log = logging.getLogger(__name__)

_LATER_IMPORTS = ("copy", "mmap", "tempfile", "PIL.ImageCms", "PIL.ImagePalette")  # Pillow imports them when needed

_TOO_COSTLY = "Reading the header needs too much memory. Open the file in an image editor and export it again."


_ERRORS: dict[str, type[PixToolsError]] = {
    kind.code: kind for kind in (UnsupportedType, CorruptImage, ImageTooLarge, PixToolsError)
}


def _known_type(media_type: str) -> str:
    if media_type not in MEDIA_TYPES.values():
        raise ValueError("this is no type that PixTools reads")
    return media_type


class ReadHeader(BaseModel):
    """The header of a file that is within the limits."""

    model_config = ConfigDict(extra="forbid")

    media_type: Annotated[str, AfterValidator(_known_type)]
    width: PositiveInt
    height: PositiveInt
    frames: PositiveInt


class RefusedFile(BaseModel):
    """The reason why a file is refused. The code of PixToolsError means that the worker has a bug."""

    model_config = ConfigDict(extra="forbid")

    code: Literal["unsupported_type", "corrupt_image", "image_too_large", "internal"]
    detail: str

    def error(self) -> PixToolsError:
        """Return the error to raise."""
        return _ERRORS[self.code](self.detail)


class HeaderAnswer(BaseModel):
    """The answer of the worker about one file."""

    model_config = ConfigDict(extra="forbid")

    answer: ReadHeader | RefusedFile


def prepare() -> Callable[[Connection], None]:
    """Import everything that `inspect` may need later, because the confined process cannot open files."""
    memory.return_freed_blocks()
    Image.init()
    for module in _LATER_IMPORTS:
        import_module(module)
    return _work


def _work(connection: Connection) -> None:
    while True:
        try:
            limits, file = connection.recv(), files.receive(connection)
        except EOFError:  # the parent has ended
            return
        with file:
            answer = HeaderAnswer(answer=_answer(file, limits))
        connection.send_bytes(answer.model_dump_json().encode())


def _answer(file: IO[bytes], limits: Limits) -> ReadHeader | RefusedFile:
    try:
        header = inspect(file, limits)
        return ReadHeader(media_type=header.media_type, width=header.width, height=header.height, frames=header.frames)
    except (UnsupportedType, CorruptImage, ImageTooLarge) as error:
        return RefusedFile(code=error.code, detail=error.detail)
    except MemoryError:
        return RefusedFile(code=CorruptImage.code, detail=_TOO_COSTLY)
    except Exception:
        log.exception("inspection failed unexpectedly")
        return RefusedFile(code=PixToolsError.code, detail="")
