"""Makes requests for new jobs that are meant to do harm: `steps` documents, short forms and multipart bodies.

A grammar makes most of a request valid, so that the later checks run too. Then mutations damage the text. The random
seed and the number of a case determine the request. Most requests are small, and some are larger than the service
accepts.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import DataKind

_VALID: dict[str, list[dict[str, Any]]] = {
    "jpg": [{}, {"quality": 80, "resize": {"width": 9, "fit": "fill", "height": 9}}, {"target": 70.5}],
    "png": [{}, {"resize": {"height": 9}}, {"strip": "all", "color": "srgb"}],
    "webp": [{}, {"quality": 1, "frames": "first"}],
    "avif": [{}, {"max_bytes": 10_000}],
    "resize": [{"width": 50}, {"height": 60, "keep": True}],
    "crop": [{"width": 5, "height": 5}, {"width": 5, "height": 5, "x": 1, "y": 1}],
    "rotate": [{"degrees": 90}],
    "blur": [{}, {"radius": 3.5}],
    "watermark": [{"text": "Text"}, {"image": "logo", "scale": 0.5}],
}
"""Valid parameters of operations. Other operations have none, or all of their parameters have defaults."""

_FIELDS = sorted({field for choices in _VALID.values() for params in choices for field in params})
_LETTERS = ("a", "\\", '"', "\0", "\x1b", "é", "√", "😀", "\ud800", "\u202e", "~", "/", " ", "İ", "\U0010ffff")
_NUMBERS = ("0", "-0", "1", "80", "-1", "1e999", "-1e999", "1e-999", "NaN", "Infinity", "9" * 4_300, "9" * 4_301,
            "9" * 20_000, "-" + "9" * 400, "0." + "3" * 10_000, "1" + "0" * 400, "1e" + "9" * 5_000)  # fmt: skip
_NUMBER_MARK = "a number stands here"
_SIZES = (1, 2, 5, 20, 50, 51, 65, 200, 1_000, 5_000, 20_000, 70_000)
_WATERMARKS = 10  # of a document: checking a text takes some 10 ms, because the text is measured with its font


def steps_text(random: Random) -> str:
    """Return the text of a `steps` document."""
    return _damaged(_text_of(_document(random), random), random)


def short_form_texts(random: Random) -> tuple[str, str | None]:
    """Return the texts of `operations` and `operation_params`."""
    names = random.sample(list(OPERATIONS), _size(random, len(OPERATIONS)))
    if _rarely(random):
        names = [random.choice([*names, _name(random)]) for _ in range(_size(random, 80))]
    if _rarely(random):
        names *= _size(random, 5_000)
    params: Any = {name: _parameters(random, name) for name in dict.fromkeys(names)}
    if _rarely(random):
        params |= {_name(random) + str(number): {} for number in range(_size(random, 5_000))}
    operations = _damaged(_text_of(names, random), random)
    return operations, _damaged(_text_of(params, random), random)


def multipart_body(random: Random) -> tuple[str, list[bytes]]:
    """Return a Content-Type and the chunks of a body."""
    boundary = b"a-boundary-of-ordinary-length"
    if _rarely(random):
        boundary = random.choice((b"x", b"-" * 70, b"\r\n", b"y" * random.choice(_SIZES)))
    names = ["file", "steps", *random.sample(["logo", "operations", "more"], random.randrange(2))]
    if _rarely(random):
        names = [random.choice([*names, "odd name", _name(random)]) for _ in range(_size(random, 1_000))]
    delimiter, body = b"--" + boundary, bytearray()
    for name in names:
        line_end = random.choice((b" \t\r\n", b"\n", b"--\r\n", b"", b"\r\n\r\n")) if _rarely(random) else b"\r\n"
        body += delimiter + line_end + _part(random, name, boundary)
        if len(body) > 3_000_000:
            break
    body += delimiter + b"--\r\n"
    if _rarely(random):
        body[-4:] = random.choice((b"", b" ", b"\t" * 400_000, b"--" + bytes(400_000)))
    while _rarely(random):
        _mutate(body, random, delimiter)
    header = f"multipart/form-data; boundary={boundary.decode('latin-1')}"
    if _rarely(random):
        charset = random.choice(("utf-8", "punycode", "idna", "utf-7", "undefined", "unicode_escape", "x" * 5_000))
        odd = (f"{header}; charset={charset}", header + ";" * 300, header[:20], f'{header}"; a="', "")
        header = random.choice(odd)
    return header, _chunks(bytes(body), random)


def _document(random: Random) -> Any:
    if _rarely(random):
        return _value(random, 0)
    names = [f"s{number}" for number in range(_size(random, 60))]
    if _rarely(random):
        names = [_name(random) for _ in range(_size(random, 5_000))]
    if random.random() < 0.15:  # each step reads all earlier ones: as many connections as are possible
        return {name: {"op": "zip", "input": [*names[:number], "source"]} for number, name in enumerate(names[:80])}
    document: dict[str, Any] = {}
    pixels, watermarks = ["source"], 0
    for name in names:
        op = random.choice(list(OPERATIONS))
        watermarks += op == "watermark"
        if watermarks > _WATERMARKS:
            break
        read: Any = random.choice(pixels[-3:]) if op != "metadata" else "source"
        if _rarely(random):
            read = random.choice((random.choice(names), names, ["source"] * random.choice(_SIZES), _value(random, 0)))
        document[name] = {"op": op, "input": read} | _parameters(random, op)
        if _rarely(random):
            document[name] = random.choice((_value(random, 0), {"op": _name(random), "input": read}, {"op": op}))
        if OPERATIONS[op].makes is DataKind.PIXELS:
            pixels.append(name)
    return document


def _parameters(random: Random, op: str) -> dict[str, Any]:
    params = dict(random.choice(_VALID.get(op, [{}])))
    if _rarely(random):
        params |= {random.choice(_FIELDS): _value(random, 0)}
    if _rarely(random):
        params |= {f"x{number}": 1 for number in range(_size(random, 8_000))}
    if _rarely(random):
        params |= {
            random.choice(["resize", _name(random)]): {f"x{number}": 1 for number in range(_size(random, 8_000))}
        }
    return params


def _value(random: Random, depth: int) -> Any:
    if depth < 6 and random.random() < 0.3:
        inner = [_value(random, depth + 1) for _ in range(random.randrange(4))]
        return inner if random.random() < 0.5 else {_name(random): value for value in inner}
    if random.random() < 0.3:
        return _NUMBER_MARK
    return random.choice((None, True, False, 1, 5, 80, 300, -1, 0.5, "#ff0000", "first", "logo", "Text", _name(random)))


def _name(random: Random) -> str:
    if random.random() < 0.5:
        return f"s{random.randrange(60)}"
    return random.choice(_LETTERS) * random.choice(_SIZES)


def _rarely(random: Random) -> bool:
    return random.random() < 0.06


def _size(random: Random, most: int) -> int:
    return min(random.choice(_SIZES if _rarely(random) else _SIZES[:6]), most)


def _text_of(value: Any, random: Random) -> str:
    first, *others = json.dumps(value, ensure_ascii=random.random() < 0.5).split(f'"{_NUMBER_MARK}"')
    return first + "".join(random.choice(_NUMBERS) + other for other in others)


def _damaged(text: str, random: Random) -> str:
    """Damage a text, in half of all cases."""
    for _ in range(random.choice((0, 0, 0, 1, 1, 3))):
        at, length = random.randrange(len(text) + 1), random.choice(_SIZES)
        piece = text[at : at + length]
        match random.randrange(8):
            case 0:
                text = text[:at] + text[at + length :]
            case 1:
                text = text[:at] + piece * random.choice((2, 10, 100)) + text[at:]
            case 2:
                text = (
                    text[:at] + random.choice(("[", '{"a":', "]", "}", ",", '"', "\\", "\\ud800")) * length + text[at:]
                )
            case 3:
                depth = random.choice((10, 16, 17, 500, 990, 3_000, 20_000))
                text = "[" * depth + text + "]" * depth
            case 4:
                text = text.replace(f"s{random.randrange(60)}", f"s{random.randrange(60)}")  # the same name twice
            case 5:
                text = text[:at] + random.choice(_LETTERS) * length + text[at:]
            case 6:
                text = text[:at] + random.choice(_NUMBERS) + text[at:]
            case 7:
                text = text[:at] + " " * length + text[at:]
        text = text[:300_000]
    return text


def _part(random: Random, name: str, boundary: bytes) -> bytes:
    is_file = (name not in ("steps", "operations")) != _rarely(random)
    disposition = f'form-data; name="{name}"' + ('; filename="a.png"' if is_file else "")
    if _rarely(random):
        disposition = random.choice(
            (
                "form-data",
                "",
                ";" * 2_000,
                '";' * 1_500,
                f'form-data; name="{_name(random)}"; filename="{_name(random)}"',
            )
        )
    headers = b"Content-Disposition: " + disposition.encode(errors="replace").replace(b"\n", b" ") + b"\r\n"
    if _rarely(random):
        odd = random.choice((b"X: y\r\n", b"X: " + b"y" * 5_000 + b"\r\n", b"X:   \r\n", b"y" * 9_000))
        headers += odd * random.choice((1, 7, 20))
    data = random.choice((b"z", b"\r\n", b"\xff", b"\r\n--" + boundary[:-1], b"\r", b"{}"))
    if _rarely(random):
        data = b"\r\n--" + boundary + b"z"
    size = random.choice(_SIZES[:10])
    if is_file:
        size = random.choice((*_SIZES, 400_000, 900_000, 1_100_000))
    elif _rarely(random):
        size = random.choice((65_536, 65_537, 300_000, 1_100_000))
    return headers + b"\r\n" + data * (size // len(data)) + b"\r\n"


def _mutate(body: bytearray, random: Random, delimiter: bytes) -> None:
    at, length = random.randrange(len(body) + 1), random.choice(_SIZES)
    match random.randrange(4):
        case 0:
            del body[at : at + length]
        case 1:
            body[at:at] = body[at : at + length] * random.choice((1, 5, 50))
        case 2:
            body[at:at] = random.choice((b"\r\n" + delimiter, b"\r\n", b"\n", b"\0", b" ", b":", b";")) * min(
                length, 20_000
            )
        case 3:
            body[at : at + 1] = bytes([random.randrange(256)])
    del body[4_000_000:]


def _chunks(body: bytes, random: Random) -> list[bytes]:
    size = random.choice((1, 3, 17) if len(body) < 5_000 else (1_000, 65_536, 1_000_000, 10_000_000))
    return [body[at : at + size] for at in range(0, len(body), size)]
