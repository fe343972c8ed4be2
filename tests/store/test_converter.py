"""The messages and the artifacts of the converter. It runs here as a plain class, on real storage."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from images import LIMITS, camera_jpeg, distance, exif, opened, photo, saved, stored, truncated_jpeg, wide_gamut_profile
from pydantic import SecretStr

from actors.converter import Converter
from dag.messages import ArtifactsWork, Decoded, Inputs, PixelsReady, PixelsWork, SourceWork, StoredFile
from dag.plan import PartInfo, Plan, Source
from dag.segments import ArtifactsSegment, PixelsSegment, SourceSegment, plan_segments
from dag.specification import build
from pixtools.blob_store import BlobStore
from pixtools.errors import CorruptImage, ObjectMissing, StorageDown, StorageRefused, UnencodableImage, UnsupportedType
from pixtools.imaging.picture import Picture
from pixtools.jobs.outcomes import Failed, Started, Stored, Succeeded
from pixtools.settings import Settings

REST = Picture(())  # the description that Picture.share returns for a picture without profile and metadata


class Bench:
    """One source in storage, and a converter that reads the source."""

    def __init__(self, settings, converter: Converter, source: bytes) -> None:
        self.blobs = BlobStore(settings)
        self.converter = converter
        self.owner = uuid.uuid4().hex
        self.sha256 = hashlib.sha256(source).hexdigest()
        self.source_key = f"sources/{self.owner}/{self.sha256}"
        self.source_bytes = len(source)
        self.blobs.put(self.source_key, source, "image/jpeg")
        self.parts: dict[str, str] = {}  # the blob keys of the parts, by name
        self.size: tuple[int, int] | None = None  # size in the plan; if None, `megapixels` gives the size

    def plan(self, document: dict[str, Any], megapixels: float = 0.1) -> Plan:
        size = self.size or (round(megapixels * 100), 10_000)
        parts = {name: PartInfo(key, (10, 10)) for name, key in self.parts.items()}
        return build(document, Source("IMG_1.jpg", self.sha256, size, parts=parts), 50, LIMITS)

    def put_part(self, name: str, data: bytes) -> None:
        self.parts[name] = f"{self.source_key}-{name}"
        self.blobs.put(self.parts[name], data, "image/png")

    @property
    def inputs(self) -> Inputs:
        return Inputs(self.owner, self.source_key, self.source_bytes, self.parts)

    def run(self, document: dict[str, Any], converters: int = 1, megapixels: float = 0.1) -> list[list[Any]]:
        """Run all segments except bundles, in order. Return the items of each call, without the first, `Started`."""
        plan = self.plan(document, megapixels)
        calls, pixels = [], None
        for segment in plan_segments(plan, frozenset(plan.by_name), converters):
            match segment:
                case SourceSegment():
                    started, *items = self.converter.run(SourceWork(segment, self.inputs))
                case PixelsSegment():
                    started, *items = self.converter.run(PixelsWork(segment, self.inputs), pixels)
                case _:
                    continue
            assert started == Started(segment.names[0])
            calls.append(items)
            if PixelsReady("source") in items:
                pixels = items[items.index(PixelsReady("source")) + 1]
        return calls

    def run_artifacts(self, document: dict[str, Any], step: str, *files: tuple[str, str]) -> list[Any]:
        """Run a step that reads the artifacts `files`, pairs of a name and a blob key.

        Return the items of the call, without the first, `Started`.
        """
        (segment,) = plan_segments(self.plan(document), frozenset([step]), 1)
        assert isinstance(segment, ArtifactsSegment)
        stored_files = tuple(StoredFile(name, key) for name, key in files)
        started, *items = self.converter.run(ArtifactsWork(segment, self.inputs, stored_files))
        assert started == Started(step)
        return items

    def artifact(self, outcome: Succeeded) -> bytes:
        """Read the file of an outcome from storage, check its length and digest, and return the file."""
        data = self.blobs.get(outcome.stored.blob_key)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (outcome.stored.bytes, outcome.stored.sha256)
        return data


@pytest.fixture(scope="module")
def converter(settings) -> Iterator[Converter]:
    """One converter for all tests, as in the service, because the start of its worker takes a second."""
    converter = Converter(settings)
    yield converter
    converter.close()


@pytest.fixture
def converter_of() -> Iterator[Callable[[Settings], Converter]]:
    """Return a function that makes a converter with other settings."""
    with ExitStack() as stack:

        def make(settings: Settings) -> Converter:
            converter = Converter(settings)
            stack.callback(converter.close)
            return converter

        yield make


@pytest.fixture
def bench(settings, converter):
    """Return a function that makes a Bench for a source."""
    return lambda source: Bench(settings, converter, source)


def done(items: list[Any]) -> dict[str, Stored | None]:
    """Return the artifact of each step that succeeded."""
    return {item.step: item.stored for item in items if isinstance(item, Succeeded)}


def failed(items: list[Any]) -> dict[str, type]:
    """Return the error class of each step that failed."""
    return {item.step: type(item.error) for item in items if isinstance(item, Failed)}


ALL = {
    "a": {"op": "jpg", "input": "source"},
    "b": {"op": "webp", "input": "source", "resize": {"width": 48}},
    "c": {"op": "avif", "input": "source"},
    "d": {"op": "png", "input": "source"},
    "facts": {"op": "metadata", "input": "source"},
}


def test_each_artifact_is_in_storage_before_it_is_reported(bench):
    work = bench(camera_jpeg())

    (items,) = work.run(ALL)

    facts, decoded, *made = items  # `facts` needs no pixels, so it runs before the decoding
    assert (facts.step, type(decoded)) == ("facts", Decoded)
    assert {item.step for item in made} == {"a", "b", "c", "d"}
    types = {"a": "image/jpeg", "b": "image/webp", "c": "image/avif", "d": "image/png"}
    for item in made:
        assert isinstance(item, Succeeded)
        image = opened(work.artifact(item))
        assert item.stored.media_type == types[item.step] == image.get_format_mimetype()
        assert (item.stored.width, item.stored.height) == image.size == ((48, 32) if item.step == "b" else (96, 64))
        assert item.run_ms >= 0


def test_each_try_stores_its_artifact_under_a_new_key_below_owner_and_step_key(bench):
    work = bench(camera_jpeg())
    key = work.plan(ALL).by_name["d"].key

    made = [done(work.run(ALL)[0])["d"] for _ in range(2)]

    assert {one.step_key for one in made} == {key}
    for one in made:
        assert re.fullmatch(f"artifacts/{work.owner}/{key[:2]}/{key[2:4]}/{key}-[0-9a-f]{{32}}\\.png", one.blob_key)
    assert len({one.blob_key for one in made}) == 2
    assert len({one.sha256 for one in made}) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_artifacts_are_upright(bench, orientation):
    work = bench(saved(stored(photo(), orientation), "PNG", exif=exif(orientation)))

    (items,) = work.run({"d": {"op": "png", "input": "source"}, "a": {"op": "jpg", "input": "source"}})

    made = {item.step: opened(work.artifact(item)) for item in items if isinstance(item, Succeeded)}
    assert np.array_equal(made["d"], photo())
    assert distance(made["a"], photo()) < 6


def test_artifacts_keep_the_profile_and_the_camera_but_not_the_place(bench):
    work = bench(camera_jpeg(orientation=6))

    (items,) = work.run({name: step for name, step in ALL.items() if name != "facts"})

    for item in items[1:]:
        data = work.artifact(item)
        image = opened(data)
        assert image.info["icc_profile"] == wide_gamut_profile()
        assert image.getexif()[0x010F] == "PixCam"
        assert image.getexif().get_ifd(0x8825) == {}
        assert b"secret" not in data


def test_metadata_is_a_result_of_the_step_and_a_json_file(bench):
    work = bench(camera_jpeg())

    (items,) = work.run({"facts": ALL["facts"]})

    (item,) = items  # there is no Decoded, because no step needs pixels
    assert item.stored.result["camera"] == "PixCam One"
    assert json.loads(work.artifact(item)) == item.stored.result
    assert (item.stored.media_type, item.stored.width) == ("application/json", None)


SMALL = {"t": {"op": "resize", "input": "source", "width": 48}, "a": {"op": "png", "input": "t"}}


def test_a_transform_passes_its_pixels_on_and_leaves_no_file(bench):
    work = bench(saved(photo(), "PNG"))

    (items,) = work.run(SMALL)

    assert done(items)["t"] is None
    assert opened(work.artifact(items[2])).size == (48, 32)


def test_a_kept_transform_leaves_a_lossless_file(bench):
    work = bench(saved(photo(), "PNG"))

    (items,) = work.run({"t": SMALL["t"] | {"keep": True}, "a": SMALL["a"]})

    kept, read = opened(work.artifact(items[1])), opened(work.artifact(items[2]))
    assert kept.format == "PNG"
    assert np.array_equal(kept, read)


REDUCED = {
    "a": {"op": "png", "input": "source", "resize": {"width": 90}},
    "b": {"op": "png", "input": "source", "resize": {"width": 60, "height": 60, "fit": "cover"}},
    "t": {"op": "resize", "input": "source", "width": 47, "height": 47, "fit": "contain", "background": "#000000"},
    "c": {"op": "png", "input": "t"},
}


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_that_is_shrunk_on_load_looks_the_same(bench, orientation):
    work = bench(camera_jpeg(997, 801, orientation))
    work.size = (997, 801)
    whole = REDUCED | {"d": {"op": "png", "input": "source"}}

    small, full = (
        {
            item.step: opened(work.artifact(item))
            for item in work.run(steps)[0]
            if isinstance(item, Succeeded) and item.stored
        }
        for steps in (REDUCED, whole)
    )

    assert {name: image.size for name, image in small.items()} == {"a": (90, 72), "b": (60, 60), "c": (47, 47)}
    for name, image in small.items():
        assert 0 < distance(image, full[name]) < 2  # not equal, because only `small` was shrunk on load


LARGE = {"a": {"op": "png", "input": "source"}, "b": {"op": "webp", "input": "source", "lossless": True}}


def test_shared_pixels_are_announced_right_after_they_are_decoded(bench):
    work = bench(saved(photo(), "PNG", icc_profile=wide_gamut_profile()))

    first, _ = work.run(LARGE, converters=2, megapixels=24)

    assert first[:2] == [Decoded(), PixelsReady("source")]
    array, rest = first[2]
    assert np.array_equal(array, photo()[None])
    assert rest.icc == wide_gamut_profile()


def test_steps_make_the_same_from_shared_pixels_as_from_the_source(bench):
    work = bench(saved(photo(), "PNG", icc_profile=wide_gamut_profile()))

    _, second = work.run(LARGE, converters=2, megapixels=24)

    (item,) = second  # there is no Decoded, because the pixels were shared
    image = opened(work.artifact(item))
    assert np.array_equal(image.convert("RGB"), photo())
    assert image.info["icc_profile"] == wide_gamut_profile()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_pixels_with_one_or_four_channels_are_shared_too(bench, kind):
    image = opened(saved(photo(), "PNG")).convert("L" if kind == "GIF" else "RGBA")
    work = bench(saved(image, "PNG"))

    _, second = work.run(LARGE, converters=2, megapixels=24)

    assert np.array_equal(opened(work.artifact(second[0])).convert(image.mode), image)


def pixels_work(work: Bench, document: dict[str, Any]) -> PixelsWork:
    """Return a work item that makes all steps of a document from decoded pixels."""
    plan = work.plan(document)
    return PixelsWork(PixelsSegment(steps=plan.steps, head="source"), work.inputs)


def test_all_encoders_accept_read_only_arrays_as_ray_passes_them(bench):
    work = bench(saved(photo(), "PNG"))
    array = photo()
    array.setflags(write=False)
    encoders = {name: step for name, step in ALL.items() if name != "facts"}

    items = list(work.converter.run(pixels_work(work, encoders), (array[None], REST)))

    assert failed(items) == {}
    assert len(done(items)) == 4


@pytest.mark.parametrize("first", ["facts", "a"])
def test_a_corrupt_source_fails_each_step_that_needs_its_pixels_and_no_other(bench, first):
    work = bench(truncated_jpeg())
    document = {first: ALL[first]} | ALL

    (items,) = work.run(document)

    assert failed(items) == dict.fromkeys("abcd", CorruptImage)
    assert done(items)["facts"].result["camera"] == "PixCam One"
    assert len(items) == 5


def test_the_readers_of_a_failed_step_are_skipped(bench):
    work = bench(truncated_jpeg())

    (items,) = work.run(SMALL | {"facts": ALL["facts"]})

    assert failed(items) == {"t": CorruptImage}
    assert done(items).keys() == {"facts"}


def test_a_picture_that_is_too_large_for_a_format_fails_only_that_step(bench):
    wide = saved(np.zeros((1, 16_384, 3), np.uint8), "PNG")
    work = bench(wide)

    (items,) = work.run({"w": {"op": "webp", "input": "source"}, "d": {"op": "png", "input": "source"}})

    assert failed(items) == {"w": UnencodableImage}
    assert done(items).keys() == {"d"}


def test_a_source_that_is_not_an_image_is_unsupported(bench):
    work = bench(b"%PDF-1.7")

    (items,) = work.run({"a": ALL["a"], "facts": ALL["facts"]})

    assert failed(items) == {"a": UnsupportedType, "facts": UnsupportedType}


def test_a_missing_source_fails_its_readers_with_a_retryable_error(bench):
    work = bench(camera_jpeg())
    work.source_key = "sources/gone"

    (items,) = work.run({"a": ALL["a"], "facts": ALL["facts"]})

    assert failed(items) == {"a": ObjectMissing, "facts": ObjectMissing}
    assert all(item.error.retryable and not item.error.outage for item in items)


def test_steps_fail_with_a_retryable_error_while_storage_is_down(bench, converter_of, nowhere):
    work = bench(camera_jpeg())
    work.converter = converter_of(nowhere)

    (items,) = work.run({"a": ALL["a"]})

    assert failed(items) == {"a": StorageDown}
    assert items[0].error.retryable


def test_if_storage_refuses_an_artifact_its_step_fails_and_its_readers_are_skipped(bench, converter_of, settings):
    work = bench(saved(photo(), "PNG"))
    document = {"t": SMALL["t"] | {"keep": True}, "a": SMALL["a"]}
    wrong = settings.model_copy(update={"s3_secret_access_key": SecretStr("wrong")})
    work.converter = converter_of(wrong)

    items = list(work.converter.run(pixels_work(work, document), (photo()[None], REST)))

    assert failed(items) == {"t": StorageRefused}
    assert done(items) == {}


WATERMARKED = {
    "m": {"op": "watermark", "input": "source", "image": "logo", "position": "center", "scale": 0.5, "opacity": 1},
    "a": {"op": "png", "input": "m"},
    "b": {"op": "png", "input": "source"},
}


def test_a_watermark_from_a_part_is_drawn_on_the_pixels(bench):
    work = bench(saved(photo(), "PNG"))
    work.put_part("logo", saved(np.full((10, 10, 3), (1, 2, 3), np.uint8), "PNG"))

    (items,) = work.run(WATERMARKED)

    assert failed(items) == {}
    images = {item.step: opened(work.artifact(item)) for item in items if isinstance(item, Succeeded) and item.stored}
    assert images["a"].getpixel((48, 32)) == (1, 2, 3)
    assert np.array_equal(images["b"], photo())


def test_a_damaged_part_fails_the_steps_that_use_it_and_no_other(bench):
    work = bench(saved(photo(), "PNG"))
    work.put_part("logo", truncated_jpeg())

    (items,) = work.run(WATERMARKED)

    assert failed(items) == {"m": CorruptImage}
    (error,) = (item.error for item in items if isinstance(item, Failed))
    assert error.detail.startswith("The image 'logo': ")
    assert done(items).keys() == {"b"}


def test_a_missing_part_fails_its_step_with_a_retryable_error(bench):
    work = bench(saved(photo(), "PNG"))
    work.parts["logo"] = "sources/gone"

    (items,) = work.run(WATERMARKED)

    assert failed(items) == {"m": ObjectMissing}


BUNDLE = ALL | {"all": {"op": "zip", "input": ["b", "facts", "source"]}}


def test_a_bundle_holds_the_artifacts_under_the_given_names(bench):
    work = bench(camera_jpeg())
    (items,) = work.run(ALL)
    made = done(items)
    files = [
        ("IMG_1-b.webp", made["b"].blob_key),
        ("IMG_1-facts.json", made["facts"].blob_key),
        ("IMG_1.jpg", work.source_key),
    ]

    (item,) = work.run_artifacts(BUNDLE, "all", *files)

    assert item.stored.media_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(work.artifact(item))) as bundle:
        assert bundle.namelist() == [name for name, _ in files]
        for name, key in files:
            assert bundle.read(name) == work.blobs.get(key)


def test_a_bundle_made_twice_is_the_same_file(bench):
    work = bench(camera_jpeg())

    one, other = (work.run_artifacts(BUNDLE, "all", ("IMG_1.jpg", work.source_key))[0].stored for _ in range(2))

    assert (one.sha256, one.step_key) == (other.sha256, other.step_key)
    assert one.blob_key != other.blob_key


def test_a_bundle_with_a_missing_entry_fails(bench):
    work = bench(camera_jpeg())

    items = work.run_artifacts(BUNDLE, "all", ("x.webp", "artifacts/gone"))

    assert failed(items) == {"all": ObjectMissing}


def test_a_bundle_that_is_too_large_for_memory_is_complete(bench):
    data = np.random.default_rng(1).bytes(9_000_000)
    work = bench(data)

    (item,) = work.run_artifacts(BUNDLE, "all", ("one", work.source_key), ("two", work.source_key))

    with zipfile.ZipFile(io.BytesIO(work.artifact(item))) as bundle:
        assert bundle.read("two") == data


def test_metadata_of_another_steps_file_is_read_from_that_file(bench):
    work = bench(camera_jpeg())
    document = {"b": ALL["b"], "facts": {"op": "metadata", "input": "b"}}
    (items,) = work.run(document)

    (item,) = work.run_artifacts(document, "facts", ("IMG_1-b.webp", done(items)["b"].blob_key))

    assert (item.stored.result["media_type"], item.stored.result["width"]) == ("image/webp", 48)
    assert item.stored.result["camera"] == "PixCam One"
    assert item.stored.result["gps"] is None
