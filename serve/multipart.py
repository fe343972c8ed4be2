"""Reads a multipart form. Everything in it that a client can make large or many has a limit.

Starlette's parser does the reading. This module adds the limits while the form arrives, so that a form over a limit
costs neither the memory nor the time to read it whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import aclosing

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from dag.json_fields import MAX_FIELD_BYTES, too_large
from pixtools.errors import BadRequest, Fault, UploadTooLarge, pointer
from pixtools.settings import MAX_FORM_BYTES
from serve.bodies import files_too_large
from serve.problems import invalid_request

_MAX_TEXT_FIELDS = 20
# The reader accepts this number of files above the limit. So the error can name the files that are too many.
_SURPLUS_FILES = 10
_MAX_CONTENT_TYPE = 512  # characters
# A larger set would let the client choose a codec whose cost grows with the square of the text, such as punycode.
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
_PIECE_BYTES = 262_144
DIRECT_BYTES = 1 << 20
"""A file of at most this size is written and read without another thread, because a switch of threads takes longer."""
# The parser reads byte by byte after each boundary, also if the boundary stands inside a file. An ordinary body has one
# boundary for each part, and its boundary is so long that files do not contain it by chance.
_MAX_BOUNDARIES = 1_000


async def read_form(request: Request, text_fields: Collection[str], max_files: int, max_file_bytes: int) -> FormData:
    """Return the content of a multipart form. The caller closes it.

    `text_fields` are the names of the fields that hold text. All files together may have `max_file_bytes` bytes. A file
    of more than 64 kB is not kept in memory. The caller checks names and the number of files. Up to 10 files more than
    `max_files` are received, so that the caller can name them.

    Raises BadRequest if the form cannot be read, InvalidRequest if it has too many items or a text that is too long,
    UploadTooLarge, and OSError if a temporary file cannot be written.
    """
    header = request.headers.get("content-type", "")
    content_type, options = parse_options_header(header[:_MAX_CONTENT_TYPE])
    if content_type != b"multipart/form-data":
        raise BadRequest("Send multipart/form-data with the image in the field `file`.")
    if len(header) > _MAX_CONTENT_TYPE:
        raise BadRequest(f"The header Content-Type has more than {_MAX_CONTENT_TYPE} characters.")
    if options.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise BadRequest("Send the text fields in UTF-8, and leave `charset` out of Content-Type.")
    if not options.get(b"boundary"):
        raise BadRequest("The header Content-Type has no boundary.")
    try:
        async with aclosing(request.stream()) as stream:
            reader = _FormReader(request, stream, options[b"boundary"], text_fields, max_files, max_file_bytes)
            async with aclosing(reader.stream):
                return await reader.parse()
    except MultiPartException as error:
        raise BadRequest(error.message) from error


class _FileOfForm(UploadFile):
    """A file of a form. Starlette uses a thread for every file that is not in memory, this class only for large files.

    If the disk stalls, the ingress waits for the write of a small file.
    """

    async def write(self, data: bytes) -> None:
        if (self.size or 0) + len(data) > DIRECT_BYTES:
            await super().write(data)
        else:
            self.file.write(data)
            self.size = (self.size or 0) + len(data)

    async def seek(self, offset: int) -> None:
        if self._is_large:
            await super().seek(offset)
        else:
            self.file.seek(offset)

    async def close(self) -> None:
        if self._is_large:
            await super().close()
        else:
            self.file.close()

    @property
    def _is_large(self) -> bool:
        return (self.size or 0) > DIRECT_BYTES


class _FormReader(MultiPartParser):
    """Starlette's parser with further limits. Its callbacks run while a piece of the body is parsed."""

    spool_max_size = 65_536  # bytes of a file in memory; a larger file goes to disk

    def __init__(
        self, request: Request, stream: AsyncGenerator[bytes, None], boundary: bytes, text_fields: Collection[str],
        max_files: int, max_file_bytes: int,
    ) -> None:  # fmt: skip
        # The limits of the base class are off, because its errors do not name the field and the remedy.
        super().__init__(
            request.headers, self._pieces(stream), max_files=float("inf"), max_fields=float("inf"), max_part_size=2**31
        )
        self._delimiter = b"\r\n--" + boundary
        self._text_fields = text_fields
        self._allowed_files = max_files
        self._max_file_bytes = max_file_bytes
        self._received = 0  # bytes
        self._file_bytes = 0
        self._delimiters = 0

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        at = pointer(self._current_part.field_name)
        received = self._allowed_files + _SURPLUS_FILES
        if self._current_files > received:
            remedy = f"at most {self._allowed_files} are accepted (PIXTOOLS_MAX_PARTS, and the image)"
            raise invalid_request((Fault(at, f"is one of more than {received} files; {remedy}"),))
        if self._current_fields > _MAX_TEXT_FIELDS:
            remedy = f"the fields are {', '.join(self._text_fields)}"
            raise invalid_request((Fault(at, f"is one of more than {_MAX_TEXT_FIELDS} text fields; {remedy}"),))

        file = self._current_part.file
        if file is not None:
            self._current_part.file = _FileOfForm(file.file, size=0, filename=file.filename, headers=file.headers)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is not None:
            self._file_bytes += end - start
            if self._file_bytes > self._max_file_bytes:
                raise files_too_large(self._max_file_bytes)
        elif len(part.data) + end - start > MAX_FIELD_BYTES:
            if part.field_name in self._text_fields:
                raise too_large(part.field_name)
            detail = f"is a text of more than {MAX_FIELD_BYTES:,} bytes; send a file as a file, with a file name"
            raise invalid_request((Fault(pointer(part.field_name), detail),))
        super().on_part_data(data, start, end)

    async def _pieces(self, stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the body in pieces of 256 kB, and check after each piece what has been received.

        Each piece of a large file is written in a thread. If a client sends small packets, pieces of this size avoid
        thousands of switches between threads.
        """
        waiting = bytearray()
        async for chunk in stream:
            waiting += chunk
            while len(waiting) >= _PIECE_BYTES:
                piece = bytes(waiting[:_PIECE_BYTES])
                del waiting[:_PIECE_BYTES]
                self._check_boundaries(piece)
                yield piece
                self._received += len(piece)
                self._check_bytes_outside_files()
        self._check_boundaries(waiting)
        yield bytes(waiting)
        self._received += len(waiting)
        self._check_bytes_outside_files()

    def _check_boundaries(self, piece: bytes | bytearray) -> None:
        self._delimiters += piece.count(self._delimiter)
        if self._delimiters > _MAX_BOUNDARIES:
            raise BadRequest("The boundary occurs too often in the body. Choose a longer boundary.")

    def _check_bytes_outside_files(self) -> None:
        if self._received - self._file_bytes > MAX_FORM_BYTES:
            raise UploadTooLarge(
                f"At most {MAX_FORM_BYTES:,} bytes are accepted in addition to the files. Send shorter fields."
            )
