"""These tests check how the steps of a job are divided among converters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import documents, plan

from dag.plan import SOURCE, Plan
from dag.segments import (
    ArtifactsSegment,
    FileSegment,
    PixelsSegment,
    Segment,
    SegmentWithHead,
    SourceSegment,
    plan_segments,
)
from pixtools.imaging.picture import Size
from pixtools.operations.base.kinds import Bundler, DataKind, Inference

THREE = {
    "web": {"op": "webp", "input": "source"},
    "small": {"op": "avif", "input": "source"},
    "exif": {"op": "metadata", "input": "source"},
    "same": {"op": "png", "input": "source"},
}


def needed_size(document: dict, work: set[str] | None = None) -> Size | None:
    """Return the size that the segments need from a source of 6000 × 4000 pixels. Check that all need the same size."""
    made = plan(document, size=(6000, 4000))
    first, *others = plan_segments(made, frozenset(made.by_name if work is None else work), 9)
    assert all(other.needed_size == first.needed_size for other in others if not isinstance(other, ArtifactsSegment))
    return first.needed_size


def divided(document: dict, converters: int, megapixels: float, work: set[str] | None = None) -> tuple[Segment, ...]:
    """Return the segments of a document for a source of `megapixels` megapixels."""
    made = plan(document, size=(round(megapixels * 100), 10_000))
    return plan_segments(made, frozenset(made.by_name if work is None else work), converters)


def test_with_one_converter_all_steps_are_one_segment_that_decodes_for_itself():
    (only,) = divided(THREE, converters=1, megapixels=16)

    assert isinstance(only, SourceSegment)
    assert not only.shares_head
    assert only.names == ("exif", "small", "web", "same")  # the cheapest step comes first


def test_a_large_picture_is_divided_among_idle_converters_and_the_first_shares_its_pixels():
    first, second = divided(THREE, converters=2, megapixels=24)

    assert isinstance(first, SourceSegment)
    assert first.shares_head
    assert isinstance(second, PixelsSegment)
    assert sorted(first.names + second.names) == sorted(THREE)


def test_there_are_no_more_segments_than_converters_or_branches():
    assert len(divided(THREE, converters=3, megapixels=16)) == 3
    assert len(divided(THREE, converters=9, megapixels=16)) == 3


def test_a_small_picture_is_never_divided():
    assert len(divided(THREE, converters=9, megapixels=0.4)) == 1


def test_metadata_is_read_by_the_segment_that_has_the_file():
    first, *others = divided(THREE, converters=9, megapixels=16)

    assert "exif" in first.names
    assert not any("exif" in other.names for other in others)


def test_the_most_expensive_branches_are_in_different_segments():
    document = {
        "a": {"op": "jpg", "input": "source"},
        "b": {"op": "png", "input": "source"},
        "c": {"op": "webp", "input": "source"},
    }

    first, second = divided(document, converters=2, megapixels=24)

    assert {"b", "c"} not in (set(first.names), set(second.names))


def test_a_jpg_is_not_worth_a_converter_of_its_own():
    document = {"a": {"op": "png", "input": "source"}, "b": {"op": "jpg", "input": "source"}}

    assert len(divided(document, converters=9, megapixels=24)) == 1


def test_steps_that_read_the_pixels_of_a_transform_stay_together():
    document = {"t": {"op": "resize", "input": "source", "width": 9}} | {
        name: step | {"input": "t"} for name, step in THREE.items() if name != "exif"
    }

    (only,) = divided(document, converters=9, megapixels=16)

    assert only.names == ("t", "web", "small", "same")


def test_a_bundle_is_a_segment_by_itself_after_the_others():
    document = THREE | {"all": {"op": "zip", "input": ["web", "exif"]}}

    *others, last = divided(document, converters=1, megapixels=1)

    assert isinstance(last, ArtifactsSegment)
    assert last.names == ("all",)
    assert not any(isinstance(other, ArtifactsSegment) for other in others)


@pytest.mark.parametrize("read", ["source", ["source"]])
def test_a_bundle_of_the_source_alone_reads_it_from_storage(read):
    (only,) = divided({"all": {"op": "zip", "input": read}}, converters=1, megapixels=1)

    assert isinstance(only, ArtifactsSegment)


def test_metadata_of_another_steps_file_is_read_from_storage():
    document = {"web": {"op": "webp", "input": "source"}, "facts": {"op": "metadata", "input": "web"}}

    _, last = divided(document, converters=1, megapixels=1)

    assert isinstance(last, ArtifactsSegment)
    assert last.names == ("facts",)


def test_only_the_work_is_divided():
    (only,) = divided(THREE, converters=9, megapixels=16, work={"small"})

    assert isinstance(only, SourceSegment)
    assert only.names == ("small",)
    assert not only.shares_head


def test_without_work_there_are_no_segments():
    assert divided(THREE, converters=9, megapixels=16, work=set()) == ()


def test_if_only_a_bundle_is_left_nothing_is_decoded():
    (only,) = divided(THREE | {"all": {"op": "zip", "input": ["web"]}}, converters=9, megapixels=16, work={"all"})

    assert isinstance(only, ArtifactsSegment)


@st.composite
def divided_plans(draw: st.DrawFn) -> tuple[Plan, frozenset[str], int, tuple[Segment, ...]]:
    """Draw a plan, its steps that must still run, a number of converters, and the resulting segments."""
    made = plan(draw(documents()), size=(draw(st.integers(1, 16_384)), 3000))
    done = frozenset(draw(st.sets(st.sampled_from([step.name for step in made.steps]))))
    filed = frozenset(name for name in done if made.by_name[name].leaves_file)
    work = made.work(done, frozenset(), filed)
    converters = draw(st.integers(1, 6))
    return made, work, converters, plan_segments(made, work, converters)


def by_head(segments: tuple[Segment, ...]) -> list[list[SegmentWithHead]]:
    """Group the segments that start from pixels by their head: the source or an inference that gives the pixels."""
    heads: dict[str, list[SegmentWithHead]] = {}
    for segment in segments:
        if not isinstance(segment, ArtifactsSegment):
            heads.setdefault(segment.head, []).append(segment)
    return list(heads.values())


@given(drawn=divided_plans())
def test_each_step_of_the_work_gets_its_result_in_exactly_one_segment(drawn):
    _, work, _, segments = drawn

    assert sorted(name for segment in segments for name in segment.names) == sorted(work)


@given(drawn=divided_plans())
def test_each_inference_of_the_work_is_offloaded_by_exactly_one_segment(drawn):
    made, work, _, segments = drawn
    inferences = [name for name in work if isinstance(made.by_name[name].operation, Inference)]

    assert sorted(name for segment in segments for name in segment.offloaded) == sorted(inferences)


@given(drawn=divided_plans())
def test_a_segment_has_the_pixels_of_its_head_and_makes_all_others_itself(drawn):
    _, _, converters, segments = drawn

    for group in by_head(segments):
        assert len(group) <= converters
        for segment in group:
            available = {segment.head}
            for step in segment.steps:
                assert step.name == segment.head or available.issuperset(step.inputs)
                assert step.operation.reads is DataKind.PIXELS or isinstance(segment, SourceSegment)
                if not segment.offloads(step):
                    available.add(step.name)


@given(drawn=divided_plans())
def test_each_head_is_decoded_once_and_shared_but_a_running_inference_is_never_decoded(drawn):
    _, work, _, segments = drawn

    for first, *others in by_head(segments):
        assert all(isinstance(other, PixelsSegment) for other in others)
        if first.head in work:
            assert isinstance(first, PixelsSegment)
        else:
            assert isinstance(first, SourceSegment if first.head == SOURCE else FileSegment)
            assert first.shares_head == bool(others)


@given(drawn=divided_plans())
def test_a_segment_that_shares_its_head_has_a_step_that_loads_it(drawn):
    _, _, _, segments = drawn

    for segment in segments:
        if isinstance(segment, SourceSegment | FileSegment) and segment.shares_head:
            assert any(segment.reads_head(step) for step in segment.steps)


@given(drawn=divided_plans())
def test_a_step_that_reads_artifacts_is_a_segment_by_itself(drawn):
    _, _, _, segments = drawn

    for segment in segments:
        for step in segment.steps:
            reads_file_of_step = step.operation.reads is DataKind.FILE and step.inputs != (SOURCE,)
            reads_artifacts = reads_file_of_step or isinstance(step.operation, Bundler)
            assert isinstance(segment, ArtifactsSegment) == reads_artifacts
            assert not reads_artifacts or len(segment.steps) == 1


DENOISED = {
    "clean": {"op": "denoise", "input": "source"},
    "web": {"op": "webp", "input": "clean"},
    "plain": {"op": "jpg", "input": "source"},
}


def test_an_inference_cuts_the_plan_and_is_offloaded_before_other_steps_run():
    first, second = divided(DENOISED, converters=1, megapixels=1)

    assert isinstance(first, SourceSegment)
    assert [step.name for step in first.steps] == ["clean", "plain"]
    assert (first.names, first.offloaded) == (("plain",), ("clean",))
    assert isinstance(second, PixelsSegment)
    assert (second.head, second.names) == ("clean", ("web", "clean"))


def test_an_inference_of_an_inference_is_offloaded_by_the_segment_of_the_first():
    document = DENOISED | {"again": {"op": "denoise", "input": "clean", "strength": 0.5}}

    heads = {segment.head: segment for segment in divided(document, converters=1, megapixels=1)}

    assert heads["clean"].offloaded == ("again",)
    assert heads["again"].names == ("again",)


def test_the_result_of_an_earlier_inference_is_read_from_its_file():
    (only,) = divided(DENOISED, converters=1, megapixels=1, work={"web"})

    assert isinstance(only, FileSegment)
    assert (only.head, only.names, only.shares_head) == ("clean", ("web",), False)


def test_a_large_denoised_picture_is_divided_among_idle_converters():
    document = DENOISED | {"other": {"op": "avif", "input": "clean"}}

    _, *readers = divided(document, converters=3, megapixels=24)

    assert len(readers) > 1
    assert all(isinstance(segment, PixelsSegment) and segment.head == "clean" for segment in readers)


def test_a_large_picture_from_the_file_of_an_inference_is_divided_and_decoded_once():
    document = DENOISED | {"other": {"op": "avif", "input": "clean"}}

    first, *others = divided(document, converters=3, megapixels=24, work={"web", "other"})

    assert isinstance(first, FileSegment)
    assert first.shares_head
    assert [type(other) for other in others] == [PixelsSegment]


def test_a_slow_encoder_comes_last_or_gets_a_converter_of_its_own():
    document = {
        "slow": {"op": "avif", "input": "source", "speed": 2},
        "web": {"op": "webp", "input": "source"},
        "png": {"op": "png", "input": "source"},
    }

    (only,) = divided(document, converters=1, megapixels=20)
    alone, others = divided(document, converters=2, megapixels=20)

    assert only.names == ("web", "png", "slow")
    assert (alone.names, others.names) == (("slow",), ("web", "png"))


def sized(op: str = "webp", read: str = "source", **resize: object) -> dict:
    """Return a step that resizes: a `resize` step, or an encoder with a `resize` parameter."""
    return {"op": op, "input": read, "resize": resize} if op != "resize" else {"op": op, "input": read, **resize}


@pytest.mark.parametrize(
    ("resize", "scaled"),
    [
        ({"width": 300}, (300, 200)),
        ({"width": 300, "height": 100}, (150, 100)),
        ({"width": 300, "height": 300, "fit": "cover"}, (450, 300)),
        ({"width": 300, "height": 300, "fit": "contain"}, (300, 200)),
        ({"width": 300, "height": 300, "fit": "fill"}, (300, 300)),
        ({"width": 9_000}, (6000, 4000)),
        ({"width": 6_600, "upscale": True}, (6600, 4400)),
    ],
)
@pytest.mark.parametrize("op", ["resize", "webp"])
def test_a_step_that_scales_first_needs_the_size_that_it_scales_to(op, resize, scaled):
    assert needed_size({"it": sized(op, **resize)}) == scaled


def test_the_needed_size_is_the_largest_width_and_the_largest_height_of_all_readers():
    document = {
        "a": sized("resize", width=300),
        "b": sized(width=900, height=40, fit="fill"),
        "c": sized("avif", "a", width=9),
        "exif": {"op": "metadata", "input": "source"},
    }

    assert needed_size(document) == (900, 200)
    assert needed_size(document, {"a", "c"}) == (300, 200)


@pytest.mark.parametrize("op", ["webp", "flip", "crop"])
def test_a_reader_that_does_not_scale_needs_the_full_size(op):
    params = {"width": 10, "height": 10} if op == "crop" else {}

    assert needed_size({"a": sized(width=300), "b": {"op": op, "input": "source", **params}}) == (6000, 4000)


def test_there_is_no_needed_size_if_no_step_reads_pixels():
    assert needed_size({"exif": {"op": "metadata", "input": "source"}}) is None


def test_resizing_counts_as_work_so_small_results_of_a_large_picture_are_divided():
    small = {name: sized(width=300, height=300 + number) for number, name in enumerate("abcd")}

    assert len(divided(small, converters=2, megapixels=49)) == 2
