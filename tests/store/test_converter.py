"""The converter as a plain class, with real storage: what it makes of an order, and what it says of failures."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
import zipfile
from typing import Any

import numpy as np
import pytest
from images import LIMITS, camera_jpeg, distance, exif, opened, photo, saved, stored, truncated_jpeg, wide_gamut_profile
from pydantic import SecretStr

from actors.converter import Converter
from dag.plan import Part, Plan, Source
from dag.segments import Decoded, Inputs, Order, Segment, segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.errors import CorruptImage, ObjectMissing, StorageDown, StorageRefused, UnencodableImage, UnsupportedType
from pixtools.imaging.picture import Picture
from pixtools.jobs.outcomes import Began, Done, Failed, Stored

REST = Picture(())  # what is shared of a plain picture beside its pixels


class Bench:
    """One source in storage, and a converter that works on it."""

    def __init__(self, settings, source: bytes) -> None:
        self.blobs = BlobStore(settings)
        self.converter = Converter(settings)
        self.owner = uuid.uuid4().hex
        self.sha256 = hashlib.sha256(source).hexdigest()
        self.source_key = f"sources/{self.owner}/{self.sha256}"
        self.source_bytes = len(source)
        self.blobs.put(self.source_key, source, "image/jpeg")
        self.parts: dict[str, str] = {}  # keys by name
        self.size: tuple[int, int] | None = None  # as planned, where that matters

    def plan(self, document: dict[str, Any], megapixels: float = 0.1) -> Plan:
        size = self.size or (round(megapixels * 100), 10_000)
        parts = {name: Part(key, (10, 10)) for name, key in self.parts.items()}
        return build(document, Source("IMG_1.jpg", self.sha256, size, parts=parts), 50, LIMITS)

    def put_part(self, name: str, data: bytes) -> None:
        self.parts[name] = f"{self.source_key}-{name}"
        self.blobs.put(self.parts[name], data, "image/png")

    def order(self, segment: Segment, *entries: tuple[str, str]) -> Order:
        return Order(segment, Inputs(self.owner, self.source_key, self.source_bytes, self.parts), entries)

    def run(self, document: dict[str, Any], ways: int = 1, megapixels: float = 0.1) -> list[list[Any]]:
        """Run all that needs no bundle, each segment after the other; return what each yielded."""
        plan = self.plan(document, megapixels)
        made, pixels = [], []
        for segment in segments(plan, frozenset(plan.by_name), ways):
            if not segment.bundles:
                order = self.order(segment)
                began, *items = self.converter.run(order, *(pixels if segment.imports else []))
                assert began == Began(segment.names[0])
                made.append(items)
                if segment.exports:
                    at = next(at for at, item in enumerate(items) if isinstance(item, Decoded))
                    pixels = [items[at + 1]]
        return made

    def bundle(self, document: dict[str, Any], step: str, *entries: tuple[str, str]) -> list[Any]:
        plan = self.plan(document)
        (segment,) = segments(plan, frozenset([step]), 1)
        _, *items = self.converter.run(self.order(segment, *entries))
        return items

    def artifact(self, outcome: Done) -> bytes:
        """Return what the outcome says is in storage, having seen that it is."""
        data = self.blobs.get(outcome.stored.blob_key)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (outcome.stored.bytes, outcome.stored.sha256)
        return data


@pytest.fixture
def bench(settings):
    return lambda source: Bench(settings, source)


def done(items: list[Any]) -> dict[str, Stored | None]:
    return {item.step: item.stored for item in items if isinstance(item, Done)}


def failed(items: list[Any]) -> dict[str, type]:
    return {item.step: type(item.error) for item in items if isinstance(item, Failed)}


ALL = {
    "a": {"op": "jpg", "input": "source"},
    "b": {"op": "webp", "input": "source", "resize": {"width": 48}},
    "c": {"op": "avif", "input": "source"},
    "d": {"op": "png", "input": "source"},
    "facts": {"op": "metadata", "input": "source"},
}


def test_one_order_leaves_every_artifact_in_storage_before_it_is_reported(bench):
    work = bench(camera_jpeg())

    (items,) = work.run(ALL)

    facts, decoded, *made = items  # what needs no pixels comes first
    assert (facts.step, type(decoded)) == ("facts", Decoded)
    assert {item.step for item in made} == {"a", "b", "c", "d"}
    types = {"a": "image/jpeg", "b": "image/webp", "c": "image/avif", "d": "image/png"}
    for item in made:
        assert isinstance(item, Done)
        image = opened(work.artifact(item))
        assert item.stored.media_type == types[item.step] == image.get_format_mimetype()
        assert (item.stored.width, item.stored.height) == image.size == ((48, 32) if item.step == "b" else (96, 64))
        assert item.run_ms >= 0


def test_each_try_leaves_its_artifact_under_a_key_of_its_own_below_owner_and_step_key(bench):
    work = bench(camera_jpeg())
    key = work.plan(ALL).by_name["d"].key

    made = [done(work.run(ALL)[0])["d"] for _ in range(2)]

    assert {one.step_key for one in made} == {key}
    for one in made:
        assert re.fullmatch(f"artifacts/{work.owner}/{key}/[0-9a-f]{{32}}\\.png", one.blob_key)
    assert len({one.blob_key for one in made}) == 2
    assert len({one.sha256 for one in made}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_artifacts_are_upright(bench, orientation):
    work = bench(saved(stored(photo(), orientation), "PNG", exif=exif(orientation)))

    (items,) = work.run({"d": {"op": "png", "input": "source"}, "a": {"op": "jpg", "input": "source"}})

    made = {item.step: opened(work.artifact(item)) for item in items if isinstance(item, Done)}
    assert np.array_equal(made["d"], photo())
    assert distance(made["a"], photo()) < 6


def test_artifacts_keep_the_profile_and_the_camera_but_no_place_and_no_secret(bench):
    work = bench(camera_jpeg(orientation=6))

    (items,) = work.run({name: step for name, step in ALL.items() if name != "facts"})

    for item in items[1:]:
        data = work.artifact(item)
        image = opened(data)
        assert image.info["icc_profile"] == wide_gamut_profile()
        assert image.getexif()[0x010F] == "PixCam"
        assert image.getexif().get_ifd(0x8825) == {}
        assert b"secret" not in data


def test_facts_are_answered_inline_and_left_as_json(bench):
    work = bench(camera_jpeg())

    (items,) = work.run({"facts": ALL["facts"]})

    (item,) = items  # no pixel was needed for it
    assert item.stored.result["camera"] == "PixCam One"
    assert json.loads(work.artifact(item)) == item.stored.result
    assert (item.stored.media_type, item.stored.width) == ("application/json", None)


SMALL = {"t": {"op": "resize", "input": "source", "width": 48}, "a": {"op": "png", "input": "t"}}


def test_pixels_of_a_transform_pass_on_and_leave_no_file(bench):
    work = bench(saved(photo(), "PNG"))

    (items,) = work.run(SMALL)

    assert done(items)["t"] is None
    assert opened(work.artifact(items[2])).size == (48, 32)


def test_a_transform_that_is_kept_leaves_a_lossless_file(bench):
    work = bench(saved(photo(), "PNG"))

    (items,) = work.run({"t": SMALL["t"] | {"keep": True}, "a": SMALL["a"]})

    kept, read = opened(work.artifact(items[1])), opened(work.artifact(items[2]))
    assert kept.format == "PNG"
    assert np.array_equal(kept, read)


DRAFTED = {
    "a": {"op": "png", "input": "source", "resize": {"width": 90}},
    "b": {"op": "png", "input": "source", "resize": {"width": 60, "height": 60, "fit": "cover"}},
    "t": {"op": "resize", "input": "source", "width": 47, "height": 47, "fit": "contain", "background": "#000000"},
    "c": {"op": "png", "input": "t"},
}


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_wanted_small_is_made_of_fewer_pixels_and_looks_the_same(bench, orientation):
    work = bench(camera_jpeg(997, 801, orientation))
    work.size = (997, 801)
    whole = DRAFTED | {"d": {"op": "png", "input": "source"}}

    small, full = (
        {
            item.step: opened(work.artifact(item))
            for item in work.run(steps)[0]
            if isinstance(item, Done) and item.stored
        }
        for steps in (DRAFTED, whole)
    )

    assert {name: image.size for name, image in small.items()} == {"a": (90, 72), "b": (60, 60), "c": (47, 47)}
    for name, image in small.items():
        assert 0 < distance(image, full[name]) < 2  # it did come another way


LARGE = {"a": {"op": "png", "input": "source"}, "b": {"op": "webp", "input": "source", "lossless": True}}


def test_an_order_that_exports_hands_on_its_pixels_right_after_it_decoded_them(bench):
    work = bench(saved(photo(), "PNG", icc_profile=wide_gamut_profile()))

    first, _ = work.run(LARGE, ways=2, megapixels=24)

    assert isinstance(first[0], Decoded)
    array, rest = first[1]
    assert np.array_equal(array, photo()[None])
    assert rest.icc == wide_gamut_profile()


def test_an_order_that_imports_makes_of_the_pixels_what_it_would_make_of_the_source(bench):
    work = bench(saved(photo(), "PNG", icc_profile=wide_gamut_profile()))

    _, second = work.run(LARGE, ways=2, megapixels=24)

    (item,) = second  # it decoded nothing
    image = opened(work.artifact(item))
    assert np.array_equal(image.convert("RGB"), photo())
    assert image.info["icc_profile"] == wide_gamut_profile()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_pixels_with_one_or_four_channels_travel_too(bench, kind):
    image = opened(saved(photo(), "PNG")).convert("L" if kind == "GIF" else "RGBA")
    work = bench(saved(image, "PNG"))

    _, second = work.run(LARGE, ways=2, megapixels=24)

    assert np.array_equal(opened(work.artifact(second[0])).convert(image.mode), image)


def test_pixels_cannot_be_written_where_they_came_from_shared_memory(bench):
    """Ray hands out arrays that are read-only; every step must make do with one."""
    work = bench(saved(photo(), "PNG"))
    plan = work.plan(ALL)
    array = photo()
    array.setflags(write=False)
    for segment in segments(plan, frozenset(["a", "b", "c", "d"]), 1):
        items = list(work.converter.run(work.order(segment), (array[None], REST)))

    assert failed(items) == {}
    assert len(done(items)) == 4


@pytest.mark.parametrize("first", ["facts", "a"])
def test_a_corrupt_source_fails_every_step_that_needs_its_pixels_and_no_other(bench, first):
    work = bench(truncated_jpeg())
    document = {first: ALL[first]} | ALL

    (items,) = work.run(document)

    assert failed(items) == dict.fromkeys("abcd", CorruptImage)
    assert done(items)["facts"].result["camera"] == "PixCam One"
    assert len(items) == 5


def test_what_reads_a_step_that_failed_is_passed_over(bench):
    work = bench(truncated_jpeg())

    (items,) = work.run(SMALL | {"facts": ALL["facts"]})

    assert failed(items) == {"t": CorruptImage}
    assert done(items).keys() == {"facts"}


def test_a_picture_that_does_not_fit_its_format_fails_that_step_alone(bench):
    wide = saved(np.zeros((1, 16_384, 3), np.uint8), "PNG")
    work = bench(wide)

    (items,) = work.run({"w": {"op": "webp", "input": "source"}, "d": {"op": "png", "input": "source"}})

    assert failed(items) == {"w": UnencodableImage}
    assert done(items).keys() == {"d"}


def test_a_source_that_is_no_image_is_said_to_be_unsupported(bench):
    work = bench(b"%PDF-1.7")

    (items,) = work.run({"a": ALL["a"], "facts": ALL["facts"]})

    assert failed(items) == {"a": UnsupportedType, "facts": UnsupportedType}


def test_a_source_that_is_gone_fails_its_readers_in_a_way_that_may_pass(bench):
    work = bench(camera_jpeg())
    work.source_key = "sources/gone"

    (items,) = work.run({"a": ALL["a"], "facts": ALL["facts"]})

    assert failed(items) == {"a": ObjectMissing, "facts": ObjectMissing}
    assert all(item.error.retryable and not item.error.outage for item in items)


def test_storage_that_is_away_fails_steps_in_a_way_that_may_pass(bench, nowhere):
    work = bench(camera_jpeg())
    work.converter = Converter(nowhere)

    (items,) = work.run({"a": ALL["a"]})

    assert failed(items) == {"a": StorageDown}
    assert items[0].error.retryable


def test_storage_that_refuses_what_was_made_fails_the_step_and_what_reads_it(bench, settings):
    work = bench(saved(photo(), "PNG"))
    document = {"t": SMALL["t"] | {"keep": True}, "a": SMALL["a"]}
    (segment,) = segments(work.plan(document), frozenset(document), 1)
    wrong = settings.model_copy(update={"s3_secret_access_key": SecretStr("wrong")})
    refused = Converter(wrong)

    order = work.order(segment)
    items = list(refused.run(order, (photo()[None], REST)))

    assert failed(items) == {"t": StorageRefused}
    assert done(items) == {}


MARKED = {
    "m": {"op": "watermark", "input": "source", "image": "logo", "position": "center", "scale": 0.5, "opacity": 1},
    "a": {"op": "png", "input": "m"},
    "b": {"op": "png", "input": "source"},
}


def test_a_mark_that_came_beside_the_source_is_put_on_its_pixels(bench):
    work = bench(saved(photo(), "PNG"))
    work.put_part("logo", saved(np.full((10, 10, 3), (1, 2, 3), np.uint8), "PNG"))

    (items,) = work.run(MARKED)

    assert failed(items) == {}
    images = {item.step: opened(work.artifact(item)) for item in items if isinstance(item, Done) and item.stored}
    assert images["a"].getpixel((48, 32)) == (1, 2, 3)
    assert np.array_equal(images["b"], photo())


def test_a_damaged_mark_fails_the_steps_that_need_it_and_no_other(bench):
    work = bench(saved(photo(), "PNG"))
    work.put_part("logo", truncated_jpeg())

    (items,) = work.run(MARKED)

    assert failed(items) == {"m": CorruptImage}
    (error,) = (item.error for item in items if isinstance(item, Failed))
    assert error.detail.startswith("The image 'logo': ")
    assert done(items).keys() == {"b"}


def test_a_mark_that_is_gone_fails_its_step_in_a_way_that_may_pass(bench):
    work = bench(saved(photo(), "PNG"))
    work.parts["logo"] = "sources/gone"

    (items,) = work.run(MARKED)

    assert failed(items) == {"m": ObjectMissing}


BUNDLE = ALL | {"all": {"op": "zip", "input": ["b", "facts", "source"]}}


def test_a_bundle_holds_the_artifacts_under_the_names_it_is_given(bench):
    work = bench(camera_jpeg())
    (items,) = work.run(ALL)
    made = done(items)
    entries = [
        ("IMG_1-b.webp", made["b"].blob_key),
        ("IMG_1-facts.json", made["facts"].blob_key),
        ("IMG_1.jpg", work.source_key),
    ]

    (item,) = work.bundle(BUNDLE, "all", *entries)

    assert item.stored.media_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(work.artifact(item))) as bundle:
        assert bundle.namelist() == [name for name, _ in entries]
        for name, key in entries:
            assert bundle.read(name) == work.blobs.get(key)


def test_a_bundle_made_twice_is_the_same_file(bench):
    work = bench(camera_jpeg())

    one, other = (work.bundle(BUNDLE, "all", ("IMG_1.jpg", work.source_key))[0].stored for _ in range(2))

    assert (one.sha256, one.step_key) == (other.sha256, other.step_key)
    assert one.blob_key != other.blob_key


def test_a_bundle_whose_entry_is_gone_fails(bench):
    work = bench(camera_jpeg())

    items = work.bundle(BUNDLE, "all", ("x.webp", "artifacts/gone"))

    assert failed(items) == {"all": ObjectMissing}


def test_a_bundle_larger_than_memory_allows_is_written_whole(bench):
    data = np.random.default_rng(1).bytes(9_000_000)
    work = bench(data)

    (item,) = work.bundle(BUNDLE, "all", ("one", work.source_key), ("two", work.source_key))

    with zipfile.ZipFile(io.BytesIO(work.artifact(item))) as bundle:
        assert bundle.read("two") == data


def test_facts_about_another_steps_file_are_read_from_that_file(bench):
    work = bench(camera_jpeg())
    document = {"b": ALL["b"], "facts": {"op": "metadata", "input": "b"}}
    (items,) = work.run(document)

    (item,) = work.bundle(document, "facts", ("IMG_1-b.webp", done(items)["b"].blob_key))

    assert (item.stored.result["media_type"], item.stored.result["width"]) == ("image/webp", 48)
    assert item.stored.result["camera"] == "PixCam One"
    assert item.stored.result["gps"] is None
