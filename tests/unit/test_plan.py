"""Steps with the same result have the same step key. `Plan.work` returns the steps that must still run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import LIMITS
from plans import SHA, documents, plan

from dag.plan import SOURCE, Plan, Source, running_order, step_key
from dag.specification import build
from pixtools.denoising.weights import WHITE_SHA256
from pixtools.imaging.codecs import SCORER
from pixtools.operations import OPERATIONS, get
from pixtools.operations.base.kinds import DataKind


def key(document: dict, step: str = "a", **source: str) -> str:
    """Return the step key of one step of a document."""
    return plan(document, **source).by_name[step].key


WEBP = {"a": {"op": "webp", "input": "source", "quality": 70}}


def test_equal_work_has_the_same_key_in_another_job_and_under_another_name():
    other = {"z": {"op": "png", "input": "source"}, "b": {"op": "webp", "input": "source", "quality": 70}}

    assert key(WEBP) == key(other, "b", name="other.jpg")


def test_a_key_is_a_sha256():
    assert len(bytes.fromhex(key(WEBP))) == 32


def test_a_parameter_that_equals_its_default_does_not_change_the_key():
    short = {"a": {"op": "webp", "input": "source"}}
    in_full = {"a": {"op": "webp", "input": ["source"], "quality": 80, "lossless": False, "resize": None}}

    assert key(short) == key(in_full)


def test_different_work_has_different_keys():
    small = {"t": {"op": "resize", "input": "source", "width": 9}}
    smaller = {"t": {"op": "resize", "input": "source", "width": 8}}
    through = {"a": {"op": "webp", "input": "t", "quality": 70}}
    keys = [
        key(WEBP),
        key(WEBP, sha256="cd" * 32),
        key({"a": {"op": "webp", "input": "source", "quality": 71}}),
        key({"a": {"op": "avif", "input": "source", "quality": 70}}),
        key({"a": {"op": "webp", "input": "source", "quality": 70, "resize": {"width": 9}}}),
        key({"a": {"op": "webp", "input": "source", "quality": 70, "resize": {"height": 9}}}),
        key(small | through),
        key(smaller | through),
        key(small, "t"),
    ]

    assert len(set(keys)) == len(keys)


def test_a_new_version_of_an_operation_has_new_keys():
    webp = OPERATIONS["webp"]
    keys = [step_key(replace(webp, version=number), webp.params(), [SHA], [], []) for number in (1, 2)]

    assert keys[0] != keys[1]


ZIP = {
    "b": {"op": "png", "input": "source"},
    "c": {"op": "jpg", "input": "source"},
    "a": {"op": "zip", "input": ["b", "c"]},
}


def test_the_scorer_is_part_of_the_key_only_with_a_target():
    jpg = OPERATIONS["jpg"].params

    assert jpg(target=80).identity() == {"target": 80, "scorer": SCORER}
    assert jpg(target=80).given() == {"target": 80}
    assert jpg(quality=80).identity() == {"quality": 80}
    assert version("ssimulacra2") in SCORER


def test_a_bundle_has_the_same_key_if_its_entries_have_the_same_names_and_content():
    assert key(ZIP) == key(dict(reversed(ZIP.items())))


def test_a_bundle_with_other_entry_names_or_another_order_has_another_key():
    renamed = {"b2" if name == "b" else name: step for name, step in ZIP.items()}
    renamed["a"] = {"op": "zip", "input": ["b2", "c"]}
    swapped = ZIP | {"a": {"op": "zip", "input": ["c", "b"]}}
    keys = {key(ZIP), key(renamed), key(swapped), key(ZIP, name="other.jpg")}

    assert len(keys) == 4


@pytest.mark.parametrize(
    ("name", "stem"),
    [("IMG_1.jpg", "IMG_1"), ("a.b.png", "a.b"), ("noending", "noending"), (".jpg", ".jpg"), ("", "image")],
)
def test_file_names_begin_with_the_stem_of_the_source(name, stem):
    assert plan(WEBP, name=name).by_name["a"].file_name == f"{stem}-a.webp"


@given(document=documents())
def test_no_two_files_of_a_job_share_a_name(document):
    made = plan(document)
    names = [made.source.name, *(step.file_name for step in made.steps)]

    assert len(set(names)) == len(names)


CHAIN = {
    "t": {"op": "resize", "input": "source", "width": 9},
    "u": {"op": "resize", "input": "t", "width": 8},
    "a": {"op": "png", "input": "u"},
    "b": {"op": "jpg", "input": "t"},
    "z": {"op": "zip", "input": ["a", "b"]},
}


@pytest.mark.parametrize(
    ("done", "held", "work"),
    [
        pytest.param("", "", "tuabz", id="at the start: all steps"),
        pytest.param("tuabz", "", "", id="at the end: no step"),
        pytest.param("tu", "", "tuabz", id="pixels without a file are made again for their readers"),
        pytest.param("tuab", "", "z", id="pixels that no step needs are not made again"),
        pytest.param("tua", "", "tbz", id="only the pixels that are needed are made again"),
        pytest.param("ab", "", "z", id="pixels are not made if their readers are done"),
        pytest.param("", "u", "tb", id="the reader of a failed step does not run"),
        pytest.param("", "t", "", id="a step that reads a failed step, directly or not, does not run"),
        pytest.param("t", "a", "tb", id="pixels are made again for a reader that has not failed"),
        pytest.param("tub", "a", "", id="pixels are not made for a step that failed"),
        pytest.param("tuab", "z", "", id="nothing is made for a failed last step"),
    ],
)
def test_work_is_the_steps_still_to_run(done, held, work):
    assert plan(CHAIN).work(frozenset(done), frozenset(held)) == frozenset(work)


def test_a_kept_transform_is_done_if_its_file_is_stored():
    kept = {"t": {"op": "resize", "input": "source", "width": 9, "keep": True}, "a": {"op": "png", "input": "t"}}

    assert plan(kept).work(frozenset("a"), frozenset()) == {"t"}
    assert plan(kept).work(frozenset("ta"), frozenset()) == frozenset()
    assert plan(kept).work(frozenset("t"), frozenset()) == {"t", "a"}


def test_a_bundle_reads_the_file_of_a_transform_and_not_its_pixels():
    bundled = {"t": {"op": "resize", "input": "source", "width": 9}, "z": {"op": "zip", "input": "t"}}

    assert plan(bundled).work(frozenset("t"), frozenset()) == {"z"}


DENOISED = {"d": {"op": "denoise", "input": "source"}, "a": {"op": "png", "input": "d"}}


def test_an_inference_does_not_run_again_if_its_file_is_stored():
    assert plan(DENOISED).work(frozenset("d"), frozenset(), filed=frozenset("d")) == {"a"}
    assert plan(DENOISED).work(frozenset("d"), frozenset()) == {"d", "a"}  # the file of d is lost, so d runs again


def test_an_inference_always_leaves_a_file():
    assert plan(DENOISED).by_name["d"].leaves_file


def test_other_weights_change_the_keys_of_an_inference_and_of_its_readers_only():
    steps = DENOISED | {"b": {"op": "png", "input": "source"}}
    ours, others = (build(steps, Source("a.jpg", SHA, (9, 9)), 9, LIMITS, weights * 32) for weights in ("aa", "bb"))

    same = {name for name, step in ours.by_name.items() if step.key == others.by_name[name].key}
    assert same == {"b"}


def test_a_step_for_white_noise_has_weights_of_its_own():
    steps = {name: {"op": "denoise", "input": "source", "noise": name} for name in ("any", "white")}
    ours, others = (build(steps, Source("a.jpg", SHA, (9, 9)), 9, LIMITS, weights * 32) for weights in ("aa", "bb"))

    operation = get("denoise")
    expected = step_key(operation, operation.params(noise="white"), [SHA], [], [WHITE_SHA256])
    assert [plan.by_name["white"].key for plan in (ours, others)] == [expected] * 2


@st.composite
def unfinished_plans(draw: st.DrawFn) -> tuple[Plan, frozenset[str], frozenset[str]]:
    """Draw a plan, the names of its finished steps, and the names of the steps that will get no result."""
    made = plan(draw(documents()))
    done, held = set(), set()
    for step in made.steps:
        # A step that reads pixels cannot run if the step that makes the pixels gets no result.
        unreachable = step.inputs[0] in held and step.operation.reads is DataKind.PIXELS
        (draw(st.sampled_from([done, held, set()])) if not unreachable else held).add(step.name)
    return made, frozenset(done), frozenset(held)


@given(drawn=unfinished_plans())
def test_work_is_the_missing_files_and_the_pixels_for_them_and_no_other_step(drawn):
    made, done, held = drawn
    work = made.work(done, held)

    for step in made.steps:
        if step.name in work:
            for name in set(step.inputs) - {SOURCE}:
                source = made.by_name[name]
                reads_pixels = step.operation.reads is DataKind.PIXELS
                assert name in work or (name in done and source.leaves_file and not reads_pixels)
            readers = [made.by_name[name] for name in work.intersection(made.pixel_readers[step.name])]
            assert step.name not in held
            assert (step.leaves_file and step.name not in done) or any(
                reader.operation.reads is DataKind.PIXELS for reader in readers
            )
        elif step.leaves_file and step.name not in done:
            assert blocked(made, step.name, done, held)


def blocked(made: Plan, name: str, done: frozenset[str], held: frozenset[str]) -> bool:
    """Return whether a step cannot run: the step gets no result, or it reads a step that cannot run."""
    if name == SOURCE or name in done:
        return False
    return name in held or any(blocked(made, read, done, held) for read in made.by_name[name].inputs)


@pytest.mark.parametrize("names", list(itertools.permutations("abc")))
def test_steps_that_are_ready_keep_the_order_in_which_they_were_written(names):
    assert running_order(dict.fromkeys(names, ())) == (list(names), [])


@given(
    reads=st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)).map(
        lambda reads: {name: tuple(read for read in inputs if read in reads) for name, inputs in reads.items()}
    )
)
def test_each_name_comes_after_its_inputs_or_waits_for_a_cycle(reads):
    ordered, cycles = running_order(reads)

    seen: set[str] = set()
    for name in ordered:
        assert seen.issuperset(reads[name])
        seen.add(name)
    assert bool(cycles) == (len(ordered) < len(reads))
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert all(after in reads[before] for before, after in itertools.pairwise(cycle))
