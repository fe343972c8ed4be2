"""A URL of a client is parsed once. Every odd URL is refused with a sentence that says what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixtools.outbound.addresses import AddressPolicy
from pixtools.outbound.targets import MAX_URL_CHARS, BadTarget, Target, parse_target

LONG_NAME = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("url", "target", "normal"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/"), "https://example.com/"),
        ("HTTP://Example.COM:80/A?b=C", Target("http", "example.com", 80, "/A?b=C"), "http://example.com/A?b=C"),
        ("https://a.example:8443/x#part", Target("https", "a.example", 8443, "/x"), "https://a.example:8443/x"),
        ("http://a.example:443", Target("http", "a.example", 443, "/"), "http://a.example:443/"),
        ("https://a.example?q=1", Target("https", "a.example", 443, "/?q=1"), "https://a.example/?q=1"),
        ("https://a.example/?q=@/:#@x", Target("https", "a.example", 443, "/?q=@/:"), "https://a.example/?q=@/:"),
        ("https://a.example//x/../y", Target("https", "a.example", 443, "//x/../y"), "https://a.example//x/../y"),
        ("https://a.example/%0d%0A", Target("https", "a.example", 443, "/%0d%0A"), "https://a.example/%0d%0A"),
        ("http://8.8.8.8/x", Target("http", "8.8.8.8", 80, "/x"), "http://8.8.8.8/x"),
        ("http://[2606:4700:0::1111]:81", Target("http", "2606:4700::1111", 81, "/"), "http://[2606:4700::1111]:81/"),
        ("https://Bücher.example/", Target("https", "xn--bcher-kva.example", 443, "/"), None),
        ("https://xn--bcher-kva.example/", Target("https", "xn--bcher-kva.example", 443, "/"), None),
        ("https://my_hook-1.example/", Target("https", "my_hook-1.example", 443, "/"), None),
        ("https://1.2.3.4.example/", Target("https", "1.2.3.4.example", 443, "/"), None),
        (f"https://{LONG_NAME}/", Target("https", LONG_NAME, 443, "/"), None),
    ],
)
def test_a_url_is_parsed_into_its_parts(url, target, normal):
    assert parse_target(url, AddressPolicy()) == target
    assert target.url == (normal or f"https://{target.host}/")
    assert parse_target(target.url) == target


def test_the_destination_names_the_server_with_its_port():
    assert parse_target("https://a.example/x?y").destination == "https://a.example:443"
    assert parse_target("http://[2606:4700::1111]/").destination == "http://[2606:4700::1111]:80"


BAD_URLS = {
    "must begin with http:// or https://": """
        example.com //example.com/ ftp://a.example/ file:///etc/passwd gopher://a.example/ javascript://a.example/
        https:/a.example https:a.example http 1http://a.example ｈttp://a
    """,
    "remove everything before the @": """
        http://user@a.example/ http://user:pass@a.example/ http://@a.example/ http://8.8.8.8@127.0.0.1/
        http://a.example:80@127.0.0.1/ http://a.example%40@127.0.0.1/
    """,
    "percent-encode it": "http://a.example/ü http://a.example/?ü http://a.example/①",
    "no valid host": """
        http:// http:///path http://?q http://:80/ http://[::1 http://::1/ http://[::1]x/ http://a.example:80:80/
        http://a[::1]/
    """,
    "must be a number from 1 to 65535": """
        http://a.example:/ http://a.example:0/ http://a.example:65536/ http://a.example:99999/ http://a.example:000080/
        http://a.example:-1/ http://a.example:+80/ http://a.example:80x/ http://a.example:٨٠/ http://[::1]:x/
    """,
    "remove the dot": "http://a.example./ http://127.0.0.1./ http://localhost./ http://a.example../",
    "write four decimal numbers": """
        http://2130706433/ http://0x7f.1/ http://127.1/ http://0177.0.0.1/ http://0x7f000001/ http://127.0.0.01/
        http://0/ http://127.0.0.1.1/ http://256.0.0.1/ http://1.2.3/ http://0x/ http://a.0x7f/ http://a.1/
        http://1.2.3.08/ http://017700000001/ http://127.0.0.0x1/ http://0X7F.1/ http://1.2..4/ http://00.0.0.0/
    """,
    "has a zone": "http://[fe80::1%eth0]/ http://[fe80::1%25eth0]/ http://[::1%1]/",
    "is not an IPv6 address": """
        http://[]/ http://[127.0.0.1]/ http://[::g]/ http://[:::]/ http://[1::2::3]/ http://[::1.2.3.256]/
        http://[v1.x]/ http://[a.example]/ http://[::ffff:0x7f.1]/
    """,
    "is not a valid name": f"""
        http://a..example/ http://.example/ http://-a.example/ http://a-.example/ http://a%2eexample/ http://a!b/
        http://a,b/ http://a;b/ http://a'b/ http://$(x)/ http://a~b/ http://%31%32/ http://{"a" * 64}/
        http://{LONG_NAME}b/
    """,
    "not a valid international name": f"""
        http://１２７.0.0.1/ http://①②⑦.0.0.1/ http://127。0。0。1/ http://ａ.example/ http://a․example/
        http://ⓛocalhost/ http://a／b.example/ http://☃.example/ http://ü..example/ http://{"ü" * 64}/
        http://{"ü" * 1_500}/
    """,
}


@pytest.mark.parametrize("mistake", BAD_URLS)
def test_a_bad_url_is_refused_with_advice(mistake):
    for url in BAD_URLS[mistake].split():
        with pytest.raises(BadTarget, match=mistake):
            parse_target(url)


@pytest.mark.parametrize(
    "url",
    [
        *(f"http://a{char}.example/" for char in " \t\r\n\0\x0b\x7f\\\x85\xa0\u2028\u200b\u202e\ufeff\ud800"),
        *(" http://a.example/", "http://a.example/\n", "http://a.example/a b", "http://a.example\\@127.0.0.1/"),
        *("http://a.example/x\r\nHost: internal", "java\nscript://a"),
    ],
    ids=ascii,
)
def test_a_url_with_spaces_control_characters_or_backslashes_is_refused(url):
    with pytest.raises(BadTarget, match="a space, a control character or a backslash"):
        parse_target(url)


@pytest.mark.parametrize("length", [MAX_URL_CHARS + 1, 10_000_000])
def test_a_long_url_is_refused(length):
    with pytest.raises(BadTarget, match=f"has {length:,} characters, but 2,048 are allowed: use a shorter one"):
        parse_target("https://a.example/".ljust(length, "x"))
    with pytest.raises(BadTarget, match="use a shorter one"):  # before anything else is checked
        parse_target("x" * length)


def test_the_longest_url_is_accepted_unless_its_host_is_longer_in_ascii():
    url = "https://a.example/".ljust(MAX_URL_CHARS, "x")
    assert parse_target(url).url == url
    with pytest.raises(BadTarget, match="use a shorter one"):
        parse_target("https://ü.example/".ljust(MAX_URL_CHARS, "x"))


INTERNAL = [
    *("http://127.0.0.1/", "http://[::1]:8000/", "http://10.0.0.1/", "http://192.168.1.1/", "http://169.254.169.254/"),
    *("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/"),
    *("http://[::127.0.0.1]/", "http://0.0.0.0/", "http://[::]/", "http://[fd00:ec2::254]/", "http://168.63.129.16/"),
    *("http://localhost/", "http://LOCALHOST:5432/", "http://a.localhost/"),
]


@pytest.mark.parametrize("url", INTERNAL)
def test_an_internal_host_is_refused_early_if_a_policy_is_given(url):
    parse_target(url)
    with pytest.raises(BadTarget, match="use a host that is on the internet"):
        parse_target(url, AddressPolicy())


def test_a_private_host_is_accepted_if_the_policy_allows_it():
    for url in ("http://127.0.0.1:9000/", "http://[::1]/", "http://localhost/", "http://10.0.0.1/"):
        parse_target(url, AddressPolicy(allow_private=True))
    with pytest.raises(BadTarget):
        parse_target("http://169.254.169.254/", AddressPolicy(allow_private=True))


@given(st.text(), st.text())
def test_any_text_is_parsed_or_refused(first, second):
    for url in (first, f"http://{first}/{second}", f"https://{first}:{second}"):
        try:
            target = parse_target(url)
        except BadTarget:
            continue
        assert target.url.isascii()
        assert target.url.isprintable()
        assert parse_target(target.url) == target
