"""File names of uploads are made safe for storage, headers and archives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixtools.blob_store import attachment
from serve.uploads import safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("IMG_1.jpg", "IMG_1.jpg"),
        ("Größe 日本.png", "Größe 日本.png"),
        ("../../x", "x"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\x.jpg", "x.jpg"),
        ("/absolute/x.jpg", "x.jpg"),
        ("C:\\x.jpg", "x.jpg"),
        ("x.jpg\r\nSet-Cookie: a=b", "x.jpgSet-Cookie: a=b"),
        ("a\0b.jpg", "ab.jpg"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("a\ud800b.jpg", "ab.jpg"),
        ("", "image"),
        (None, "image"),
        ("..", "image"),
        (".", "image"),
        ("folder/", "image"),
        ("   ", "image"),
        ("\r\n\0", "image"),
        (" x.jpg ", "x.jpg"),
        ("x.jpg.", "x.jpg"),
        (".htaccess", "htaccess"),
        ("a.b.c.jpg", "a.b.c.jpg"),
        ("x" * 300, "x" * 149),
        ("x" * 300 + ".jpg", "x" * 146 + ".jpg"),
        ("x." + "y" * 300, "x." + "y" * 147),
    ],
)
def test_a_file_name_is_made_safe(name, safe):
    assert safe_name(name) == safe


@given(name=st.text(st.characters(), max_size=400) | st.text("./\\ \0\r\nab~", max_size=20))
def test_every_name_becomes_a_safe_one(name):
    safe = safe_name(name)

    assert 0 < len(safe) <= 150
    assert safe.isprintable()
    assert not set(safe) & set("/\\\0\r\n")
    assert safe.strip(" .") != ""
    assert safe_name(safe) == safe
    safe.encode()


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.png", "attachment; filename=\"a.png\"; filename*=UTF-8''a.png"),
        ("a b.png", "attachment; filename=\"a b.png\"; filename*=UTF-8''a%20b.png"),
        ("größe.png", "attachment; filename=\"gr__e.png\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png"),
        ('a"b\\c.png', "attachment; filename=\"a_b_c.png\"; filename*=UTF-8''a%22b%5Cc.png"),
        ("a;b'c.png", "attachment; filename=\"a;b'c.png\"; filename*=UTF-8''a%3Bb%27c.png"),
    ],
)
def test_the_name_of_a_download_follows_rfc_6266(name, header):
    assert attachment(name) == header


@given(name=st.text(max_size=30))
def test_no_name_can_change_its_header(name):
    header = attachment(name)

    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert "\\" not in header
