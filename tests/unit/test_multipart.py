"""A multipart form is read within limits: a form over a limit is refused while it arrives."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from starlette import datastructures
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from pixtools.errors import BadRequest, InvalidRequest, UploadTooLarge
from serve.multipart import DIRECT_BYTES, _FormReader, read_form
from serve.uploads import checked_form

pytestmark = pytest.mark.anyio

TEXT_FIELDS = ("steps", "operations", "operation_params")
MAX_PARTS = 5
BOUNDARY = "a-boundary-of-ordinary-length"


def part(name: str, data: bytes, *, file: bool = True, headers: bytes = b"") -> bytes:
    """Return one part of a form, after its boundary."""
    filename = b'; filename="a.png"' if file else b""
    disposition = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + filename
    return disposition + b"\r\n" + headers + b"\r\n" + data


def form(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    """Return the body of a form."""
    delimiter = b"--" + boundary.encode()
    return b"".join(delimiter + b"\r\n" + each + b"\r\n" for each in parts) + delimiter + b"--\r\n"


async def read(
    body: bytes, *, content_type: str = f"multipart/form-data; boundary={BOUNDARY}", max_file_bytes: int = 1_000_000,
    chunk: int = 100_000,
) -> FormData:  # fmt: skip
    """Read a form as the route does."""
    chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": chunks.pop(0) if chunks else b"", "more_body": bool(chunks)}

    request = Request({"type": "http", "headers": [(b"content-type", content_type.encode())]}, receive)
    return await read_form(request, TEXT_FIELDS, 1 + MAX_PARTS, max_file_bytes)


@pytest.fixture
async def opened() -> AsyncIterator[list[FormData]]:
    """Forms that are closed at the end of the test."""
    forms: list[FormData] = []
    yield forms
    for each in forms:
        await each.close()


async def test_files_and_fields_of_a_form_are_read(opened):
    body = form(part("file", b"image"), part("steps", b"{}", file=False), part("logo", b"mark"))
    for chunk in (1, 7, 100_000):
        content = await read(body, chunk=chunk)
        opened.append(content)

        found = checked_form(content, MAX_PARTS)
        assert [file.file.read() for file in (*found.files, found.parts["logo"])] == [b"image", b"mark"]
        assert found.fields == {"steps": "{}"}


@pytest.mark.parametrize("field", TEXT_FIELDS)
async def test_a_text_field_over_64_kilobytes_is_refused_by_its_name(field):
    with pytest.raises(InvalidRequest, match=f"{field}: has more than 65,536 bytes; use fewer steps") as caught:
        await read(form(part("file", b"image"), part(field, b" " * 65_537, file=False)))

    assert [fault.pointer for fault in caught.value.faults] == [f"/{field}"]


async def test_a_text_field_of_64_kilobytes_is_read(opened):
    opened.append(await read(form(part("file", b"image"), part("steps", b"x" * 65_536, file=False))))

    assert len(checked_form(opened[0], MAX_PARTS).fields["steps"]) == 65_536


async def test_a_file_that_is_sent_as_a_long_text_is_refused_by_its_name():
    with pytest.raises(InvalidRequest, match="file: is a text of more than 65,536 bytes; send a file as a file"):
        await read(form(part("file", b"x" * 70_000, file=False)))


async def test_each_file_that_is_too_many_is_named(opened):
    files = [part(f"p{number}", b"x") for number in range(MAX_PARTS + 2)]
    opened.append(await read(form(part("file", b"image"), *files, part("steps", b"{}", file=False))))

    with pytest.raises(InvalidRequest) as caught:
        checked_form(opened[0], MAX_PARTS)

    assert [fault.pointer for fault in caught.value.faults] == ["/p5", "/p6"]


async def test_many_more_files_than_are_accepted_are_refused_while_they_arrive():
    files = [part(f"p{number}", b"x" * 1_000) for number in range(500)]

    with pytest.raises(InvalidRequest, match=r"p16: is one of more than 16 files; at most 6 are .*PIXTOOLS_MAX_PARTS"):
        await read(form(*files))


async def test_many_text_fields_are_refused_while_they_arrive():
    with pytest.raises(InvalidRequest, match="x20: is one of more than 20 text fields; the fields are steps, "):
        await read(form(*(part(f"x{number}", b"", file=False) for number in range(900))))


async def test_files_that_are_too_large_together_are_refused_while_they_arrive():
    received = 0

    async def receive() -> dict[str, object]:
        nonlocal received
        body = f"--{BOUNDARY}\r\n".encode() + part("file", b"") if received == 0 else bytes(10_000)
        received += len(body)
        return {"type": "http.request", "body": body, "more_body": True}

    header = (b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())
    with pytest.raises(UploadTooLarge, match="At most 1 MB are accepted for all files together"):
        await read_form(Request({"type": "http", "headers": [header]}, receive), TEXT_FIELDS, 6, 1_000_000)

    assert received < 1_100_000


async def test_text_in_many_fields_is_limited_together():
    fields = [part(f"x{number}", b"x" * 60_000, file=False) for number in range(6)]

    with pytest.raises(UploadTooLarge, match="At most 262,144 bytes are accepted in addition to the files"):
        await read(form(*fields))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(form(part("file", b"x"))[:-4] + b" " * 20_000_000, id="spaces after a boundary"),
        pytest.param(b"\r\n" * 10_000_000, id="empty lines before the first boundary"),
        pytest.param(form(part("file", b"x")) + bytes(20_000_000), id="bytes after the last boundary"),
    ],
)
async def test_bytes_outside_files_are_limited(body):
    started = time.process_time()
    with pytest.raises(UploadTooLarge, match="262,144 bytes"):
        await read(body, chunk=20_000_000)

    assert time.process_time() - started < 5


async def test_a_boundary_that_occurs_again_and_again_in_a_file_is_refused():
    file = b"\r\n--xy" * 3_000_000

    started = time.process_time()
    with pytest.raises(BadRequest, match="Choose a longer boundary"):
        await read(
            form(part("file", file), boundary="x"),
            content_type="multipart/form-data; boundary=x",
            max_file_bytes=25_000_000,
        )

    assert time.process_time() - started < 5


async def test_a_file_of_more_than_64_kilobytes_is_on_disk(opened):
    opened.append(await read(form(part("file", bytes(65_000)), part("logo", bytes(66_000)))))

    small, large = (file for _, file in opened[0].multi_items() if isinstance(file, UploadFile))
    assert (small._in_memory, large._in_memory) == (True, False)


async def test_small_packets_are_parsed_and_written_together(monkeypatch):
    monkeypatch.setattr("serve.multipart.MAX_FORM_BYTES", 1_000_000)

    async def packets() -> AsyncGenerator[bytes, None]:
        for number in range(200):
            yield bytes([number]) * 4_000

    request = Request({"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]})
    reader = _FormReader(request, packets(), b"x", TEXT_FIELDS, 6, 1_000_000)
    pieces = [piece async for piece in reader.stream]

    assert [len(piece) for piece in pieces] == [262_144, 262_144, 262_144, 13_568]
    assert b"".join(pieces) == b"".join([packet async for packet in packets()])


async def test_the_memory_for_many_files_is_limited(opened):
    body = form(*(part(f"p{number}", bytes(900_000)) for number in range(16)))
    tracemalloc.start()
    try:
        opened.append(await read(body, max_file_bytes=25_000_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < len(body) + 4_000_000  # the test itself holds the body in chunks


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("", "Send multipart/form-data"),
        ("application/json", "Send multipart/form-data"),
        ("multipart/form-database; boundary=x", "Send multipart/form-data"),
        ("multipart/form-data", "has no boundary"),
        ("multipart/form-data; boundary=", "has no boundary"),
        ("multipart/form-data; boundary=" + "x" * 300, "Invalid multipart data"),
        ("multipart/form-data; boundary=" + "x" * 60_000, "more than 512 characters"),
        ("multipart/form-data; charset=punycode; boundary=x", "in UTF-8"),
        ("multipart/form-data; charset=undefined; boundary=x", "in UTF-8"),
        ("multipart/form-data; charset=unicode_escape; boundary=x", "in UTF-8"),
    ],
    ids=lambda value: value[:60],
)
async def test_a_content_type_that_cannot_be_used_is_refused(content_type, words):
    with pytest.raises(BadRequest, match=words):
        await read(form(part("file", b"image"), boundary="x"), content_type=content_type)


@pytest.mark.parametrize(
    "headers",
    [b"X-Long: " + b"x" * 5_000 + b"\r\n", b"X: 1\r\n" * 20, b"x" * 5_000],
    ids=["a long header", "many headers", "a long name of a header"],
)
async def test_the_headers_of_a_part_are_limited(headers):
    with pytest.raises(BadRequest, match="Invalid multipart data"):
        await read(form(part("file", b"image", headers=headers)))


async def test_a_part_without_a_name_is_refused():
    with pytest.raises(BadRequest, match='"name" must be provided'):
        await read(form(b"Content-Disposition: form-data\r\n\r\nx"))


@pytest.mark.parametrize("size", [DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, 2 * DIRECT_BYTES])
async def test_a_small_file_is_written_without_another_thread_and_a_large_one_with_one(opened, monkeypatch, size):
    """Both have the same content. A large file must not stop the event loop while it is written."""
    in_threads = []
    original = datastructures.run_in_threadpool

    async def observed(call, *arguments):
        in_threads.append(call)
        return await original(call, *arguments)

    monkeypatch.setattr(datastructures, "run_in_threadpool", observed)
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    content = await read(form(part("file", data)), max_file_bytes=3 * DIRECT_BYTES)
    opened.append(content)

    content["file"].file.seek(0)
    assert content["file"].file.read() == data
    assert bool(in_threads) is (size > DIRECT_BYTES)
