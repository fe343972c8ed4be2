"""How the steps of a job are shared among converters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import documents, plan

from dag.plan import SOURCE, Plan
from dag.segments import Segment, segments
from pixtools.imaging.picture import Size
from pixtools.operations.base.kinds import Bundler, Inference, Kind

THREE = {
    "web": {"op": "webp", "input": "source"},
    "small": {"op": "avif", "input": "source"},
    "exif": {"op": "metadata", "input": "source"},
    "same": {"op": "png", "input": "source"},
}


def enough(document: dict, work: set[str] | None = None) -> Size | None:
    """Return what of a source of 6000 × 4000 is enough, as every segment says that decodes or imports it."""
    made = plan(document, size=(6000, 4000))
    first, *others = segments(made, frozenset(made.by_name if work is None else work), 9)
    assert all(other.enough == first.enough for other in others if not other.bundles)
    return first.enough


def shared(document: dict, ways: int, megapixels: float, work: set[str] | None = None) -> tuple[Segment, ...]:
    made = plan(document, size=(round(megapixels * 100), 10_000))
    return segments(made, frozenset(made.by_name if work is None else work), ways)


def test_with_one_converter_all_is_one_segment_that_decodes_for_itself():
    (only,) = shared(THREE, ways=1, megapixels=16)

    assert only.names == ("exif", "small", "web", "same")  # what takes least comes first
    assert (only.exports, only.imports, only.bundles) == (False, False, False)


def test_a_large_picture_is_split_among_idle_converters_and_the_first_hands_its_pixels_on():
    first, second = shared(THREE, ways=2, megapixels=24)

    assert (first.exports, first.imports) == (True, False)
    assert (second.exports, second.imports) == (False, True)
    assert sorted(first.names + second.names) == sorted(THREE)


def test_there_are_no_more_segments_than_converters_or_branches():
    assert len(shared(THREE, ways=3, megapixels=16)) == 3
    assert len(shared(THREE, ways=9, megapixels=16)) == 3


def test_a_small_picture_is_never_split():
    assert len(shared(THREE, ways=9, megapixels=0.4)) == 1


def test_facts_are_read_by_the_segment_that_has_the_file():
    first, *others = shared(THREE, ways=9, megapixels=16)

    assert "exif" in first.names
    assert not any("exif" in other.names for other in others)


def test_the_dearest_branches_go_apart():
    two = {
        "a": {"op": "jpg", "input": "source"},
        "b": {"op": "png", "input": "source"},
        "c": {"op": "webp", "input": "source"},
    }

    first, second = shared(two, ways=2, megapixels=24)

    assert {"b", "c"} not in (set(first.names), set(second.names))


def test_a_jpg_is_not_worth_a_converter_of_its_own():
    assert len(shared({"a": {"op": "png", "input": "source"}, "b": {"op": "jpg", "input": "source"}}, 9, 24)) == 1


def test_steps_that_share_the_pixels_of_a_transform_stay_together():
    document = {"t": {"op": "resize", "input": "source", "width": 9}} | {
        name: step | {"input": "t"} for name, step in THREE.items() if name != "exif"
    }

    (only,) = shared(document, ways=9, megapixels=16)

    assert only.names == ("t", "web", "small", "same")


def test_a_bundle_is_a_segment_of_its_own_after_the_others():
    document = THREE | {"all": {"op": "zip", "input": ["web", "exif"]}}

    *others, last = shared(document, ways=1, megapixels=1)

    assert (last.names, last.bundles) == (("all",), True)
    assert not any(other.bundles for other in others)


@pytest.mark.parametrize("read", ["source", ["source"]])
def test_a_bundle_of_the_source_alone_bundles_too(read):
    (only,) = shared({"all": {"op": "zip", "input": read}}, ways=1, megapixels=1)

    assert only.bundles


def test_facts_about_another_steps_file_are_read_from_storage():
    document = {"web": {"op": "webp", "input": "source"}, "facts": {"op": "metadata", "input": "web"}}

    _, last = shared(document, ways=1, megapixels=1)

    assert (last.names, last.bundles) == (("facts",), True)


def test_only_the_work_is_shared():
    (only,) = shared(THREE, ways=9, megapixels=16, work={"small"})

    assert only.names == ("small",)
    assert not only.exports


def test_without_work_there_are_no_segments():
    assert shared(THREE, ways=9, megapixels=16, work=set()) == ()


def test_when_only_a_bundle_is_left_nothing_is_decoded():
    (only,) = shared(THREE | {"all": {"op": "zip", "input": ["web"]}}, ways=9, megapixels=16, work={"all"})

    assert only.bundles


@st.composite
def shared_plans(draw: st.DrawFn) -> tuple[Plan, frozenset[str], int, tuple[Segment, ...]]:
    made = plan(draw(documents()), size=(draw(st.integers(1, 16_384)), 3000))
    done = frozenset(draw(st.sets(st.sampled_from([step.name for step in made.steps]))))
    filed = frozenset(name for name in done if made.by_name[name].leaves_file)
    work = made.work(done, frozenset(), filed)
    ways = draw(st.integers(1, 6))
    return made, work, ways, segments(made, work, ways)


def by_head(made: tuple[Segment, ...]) -> list[list[Segment]]:
    """Return the segments that have pixels, grouped by where these come from."""
    heads: dict[str, list[Segment]] = {}
    for segment in made:
        if not segment.bundles:
            heads.setdefault(segment.head, []).append(segment)
    return list(heads.values())


@given(drawn=shared_plans())
def test_every_step_of_the_work_ends_in_exactly_one_segment(drawn):
    _, work, _, made = drawn

    assert sorted(name for segment in made for name in segment.names) == sorted(work)


@given(drawn=shared_plans())
def test_every_inference_of_the_work_is_handed_on_by_exactly_one_segment(drawn):
    made_of, work, _, made = drawn
    inferences = [name for name in work if isinstance(made_of.by_name[name].operation, Inference)]

    assert sorted(name for segment in made for name in segment.handed_on) == sorted(inferences)


@given(drawn=shared_plans())
def test_a_segment_has_the_pixels_of_its_head_and_makes_all_others_itself(drawn):
    _, _, ways, made = drawn

    for group in by_head(made):
        assert len(group) <= ways
        for segment in group:
            at_hand = {segment.head}
            for step in segment.steps:
                assert step.name == segment.head or at_hand.issuperset(step.inputs)
                assert step.operation.reads is Kind.PIXELS or not segment.imports
                if not segment.hands_on(step):
                    at_hand.add(step.name)


@given(drawn=shared_plans())
def test_pixels_are_decoded_once_and_those_of_an_inference_at_work_never(drawn):
    _, work, _, made = drawn

    for group in by_head(made):
        given_pixels = group[0].head in work
        decoding = [segment for segment in group if not segment.imports]
        assert len(decoding) == (0 if given_pixels else 1)
        assert [segment.exports for segment in group] == [
            not given_pixels and len(group) > 1,
            *[False] * len(group[1:]),
        ]


@given(drawn=shared_plans())
def test_a_segment_that_exports_has_pixels_to_export(drawn):
    _, _, _, made = drawn

    for segment in made:
        if segment.exports:
            assert any(segment.reads_head(step) for step in segment.steps)


@given(drawn=shared_plans())
def test_what_reads_artifacts_waits_alone_for_them(drawn):
    _, _, _, made = drawn

    for segment in made:
        for step in segment.steps:
            reads_artifacts = step.operation.reads is Kind.FILE and step.inputs != (SOURCE,)
            assert segment.bundles == (reads_artifacts or isinstance(step.operation, Bundler))
            assert not segment.bundles or len(segment.steps) == 1


DENOISED = {
    "clean": {"op": "denoise", "input": "source"},
    "web": {"op": "webp", "input": "clean"},
    "plain": {"op": "jpg", "input": "source"},
}


def test_an_inference_cuts_the_plan_and_is_handed_on_before_all_else():
    first, second = shared(DENOISED, ways=1, megapixels=1)

    assert [step.name for step in first.steps] == ["clean", "plain"]
    assert (first.head, first.names, first.handed_on) == (SOURCE, ("plain",), ("clean",))
    assert (second.head, second.names, second.imports) == ("clean", ("web", "clean"), True)


def test_an_inference_of_an_inference_goes_from_one_to_the_other():
    document = DENOISED | {"again": {"op": "denoise", "input": "clean", "strength": 0.5}}

    heads = {segment.head: segment for segment in shared(document, ways=1, megapixels=1)}

    assert heads["clean"].handed_on == ("again",)
    assert heads["again"].names == ("again",)


def test_what_an_inference_made_before_is_read_from_its_file():
    (only,) = shared(DENOISED, ways=1, megapixels=1, work={"web"})

    assert (only.head, only.names, only.imports) == ("clean", ("web",), False)


def test_a_large_denoised_picture_is_split_among_idle_converters():
    document = DENOISED | {"other": {"op": "avif", "input": "clean"}}

    parts = [segment for segment in shared(document, ways=3, megapixels=24) if segment.head == "clean"]

    assert len(parts) > 1
    assert all(segment.imports and not segment.exports for segment in parts)


def test_effort_counts_so_a_slow_encoder_comes_last_or_goes_to_another_converter():
    document = {
        "slow": {"op": "avif", "input": "source", "speed": 2},
        "web": {"op": "webp", "input": "source"},
        "png": {"op": "png", "input": "source"},
    }

    (only,) = shared(document, ways=1, megapixels=20)
    alone, others = shared(document, ways=2, megapixels=20)

    assert only.names == ("web", "png", "slow")
    assert (alone.names, others.names) == (("slow",), ("web", "png"))


def sized(op: str = "webp", read: str = "source", **resize: object) -> dict:
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
def test_what_is_resized_before_all_else_needs_no_more_than_the_size_it_is_scaled_to(op, resize, scaled):
    assert enough({"it": sized(op, **resize)}) == scaled


def test_enough_for_all_is_what_the_largest_of_them_needs_on_either_side():
    document = {
        "a": sized("resize", width=300),
        "b": sized(width=900, height=40, fit="fill"),
        "c": sized("avif", "a", width=9),
        "exif": {"op": "metadata", "input": "source"},
    }

    assert enough(document) == (900, 200)
    assert enough(document, {"a", "c"}) == (300, 200)


@pytest.mark.parametrize("op", ["webp", "flip", "crop"])
def test_a_reader_of_all_pixels_leaves_nothing_out(op):
    params = {"width": 10, "height": 10} if op == "crop" else {}

    assert enough({"a": sized(width=300), "b": {"op": op, "input": "source", **params}}) == (6000, 4000)


def test_nothing_is_enough_for_those_who_read_no_pixels():
    assert enough({"exif": {"op": "metadata", "input": "source"}}) is None


def test_a_resize_is_work_too_and_small_pictures_of_a_large_one_are_shared():
    small = {name: sized(width=300, height=300 + number) for number, name in enumerate("abcd")}

    assert len(shared(small, ways=2, megapixels=49)) == 2
