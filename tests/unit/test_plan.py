"""Step keys say what is the same work; `work` says what of it is left to do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import LIMITS
from plans import SHA, documents, plan

from dag.plan import SOURCE, Plan, Source, order, step_key
from dag.specification import build
from pixtools.imaging.codecs import SCORER
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import Kind


def key(document: dict, step: str = "a", **source: str) -> str:
    return plan(document, **source).by_name[step].key


WEBP = {"a": {"op": "webp", "input": "source", "quality": 70}}


def test_the_same_work_has_the_same_key_in_another_job_under_another_name():
    other = {"z": {"op": "png", "input": "source"}, "b": {"op": "webp", "input": "source", "quality": 70}}

    assert key(WEBP) == key(other, "b", name="other.jpg")


def test_a_key_is_a_sha256():
    assert len(bytes.fromhex(key(WEBP))) == 32


def test_a_default_that_is_given_does_not_change_the_key():
    bare = {"a": {"op": "webp", "input": "source"}}
    given_ = {"a": {"op": "webp", "input": ["source"], "quality": 80, "lossless": False, "resize": None}}

    assert key(bare) == key(given_)


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


def test_what_scores_is_part_of_the_keys_of_targets_alone():
    jpg = OPERATIONS["jpg"].params

    assert jpg(target=80).identity() == {"target": 80, "scorer": SCORER}
    assert jpg(target=80).given() == {"target": 80}
    assert jpg(quality=80).identity() == {"quality": 80}
    assert version("ssimulacra2") in SCORER


def test_a_bundle_is_the_same_work_when_its_entries_have_the_same_names_and_content():
    assert key(ZIP) == key(dict(reversed(ZIP.items())))


def test_a_bundle_of_other_names_or_another_order_is_other_work():
    renamed = {"b2" if name == "b" else name: step for name, step in ZIP.items()}
    renamed["a"] = {"op": "zip", "input": ["b2", "c"]}
    swapped = ZIP | {"a": {"op": "zip", "input": ["c", "b"]}}
    keys = {key(ZIP), key(renamed), key(swapped), key(ZIP, name="other.jpg")}

    assert len(keys) == 4


@pytest.mark.parametrize(
    ("name", "stem"),
    [("IMG_1.jpg", "IMG_1"), ("a.b.png", "a.b"), ("noending", "noending"), (".jpg", ".jpg"), ("", "image")],
)
def test_files_are_called_after_the_source(name, stem):
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
        pytest.param("", "", "tuabz", id="at first: all"),
        pytest.param("tuabz", "", "", id="at the end: nothing"),
        pytest.param("tu", "", "tuabz", id="pixels that passed on are made again for their readers"),
        pytest.param("tuab", "", "z", id="pixels that nobody needs are not made again"),
        pytest.param("tua", "", "tbz", id="only the pixels that are needed are made again"),
        pytest.param("ab", "", "z", id="pixels that were never made are not needed once their readers are done"),
        pytest.param("", "u", "tb", id="what reads a failed step does not run"),
        pytest.param("", "t", "", id="all that reads a failed step does not run"),
        pytest.param("t", "a", "tb", id="what was done before a failure is not lost"),
        pytest.param("tub", "a", "", id="pixels are not made for a step that failed"),
        pytest.param("tuab", "z", "", id="a failed end needs nothing"),
    ],
)
def test_what_is_left_to_do(done, held, work):
    assert plan(CHAIN).work(frozenset(done), frozenset(held)) == frozenset(work)


def test_a_transform_that_is_kept_is_done_when_its_file_is_there():
    kept = {"t": {"op": "resize", "input": "source", "width": 9, "keep": True}, "a": {"op": "png", "input": "t"}}

    assert plan(kept).work(frozenset("a"), frozenset()) == {"t"}
    assert plan(kept).work(frozenset("ta"), frozenset()) == frozenset()
    assert plan(kept).work(frozenset("t"), frozenset()) == {"t", "a"}


def test_a_bundle_reads_the_file_that_a_transform_left_and_not_its_pixels():
    bundled = {"t": {"op": "resize", "input": "source", "width": 9}, "z": {"op": "zip", "input": "t"}}

    assert plan(bundled).work(frozenset("t"), frozenset()) == {"z"}


DENOISED = {"d": {"op": "denoise", "input": "source"}, "a": {"op": "png", "input": "d"}}


def test_an_inference_does_not_run_again_for_pixels_that_its_file_holds():
    assert plan(DENOISED).work(frozenset("d"), frozenset(), filed=frozenset("d")) == {"a"}
    assert plan(DENOISED).work(frozenset("d"), frozenset()) == {"d", "a"}  # the file is lost


def test_an_inference_always_leaves_its_file():
    assert plan(DENOISED).by_name["d"].leaves_file


def test_other_weights_make_other_results_of_an_inference_and_of_what_reads_it():
    steps = DENOISED | {"b": {"op": "png", "input": "source"}}
    ours, others = (build(steps, Source("a.jpg", SHA, (9, 9)), 9, LIMITS, weights * 32) for weights in ("aa", "bb"))

    same = {name for name, step in ours.by_name.items() if step.key == others.by_name[name].key}
    assert same == {"b"}


@st.composite
def plans_under_way(draw: st.DrawFn) -> tuple[Plan, frozenset[str], frozenset[str]]:
    made = plan(draw(documents()))
    done, held = set(), set()
    for step in made.steps:
        # What was made of pixels stays when they are lost, and no more can be made of it.
        lost = step.inputs[0] in held and step.operation.reads is Kind.PIXELS
        (draw(st.sampled_from([done, held, set()])) if not lost else held).add(step.name)
    return made, frozenset(done), frozenset(held)


@given(under_way=plans_under_way())
def test_work_is_all_that_can_be_finished_and_the_pixels_for_it_and_nothing_else(under_way):
    made, done, held = under_way
    work = made.work(done, held)

    for step in made.steps:
        if step.name in work:
            for name in set(step.inputs) - {SOURCE}:
                source = made.by_name[name]
                reads_pixels = step.operation.reads is Kind.PIXELS
                assert name in work or (name in done and source.leaves_file and not reads_pixels)
            readers = [made.by_name[name] for name in work.intersection(made.pixel_readers[step.name])]
            assert step.name not in held
            assert (step.leaves_file and step.name not in done) or any(
                reader.operation.reads is Kind.PIXELS for reader in readers
            )
        elif step.leaves_file and step.name not in done:
            assert blocked(made, step.name, done, held)


def blocked(made: Plan, name: str, done: frozenset[str], held: frozenset[str]) -> bool:
    """Say whether a step waits for ever, by the words of the design: a step that failed takes its readers with it."""
    if name == SOURCE or name in done:
        return False
    return name in held or any(blocked(made, read, done, held) for read in made.by_name[name].inputs)


@pytest.mark.parametrize("names", list(itertools.permutations("abc")))
def test_steps_keep_the_order_in_which_they_were_written_where_they_may(names):
    assert order(dict.fromkeys(names, ())) == (list(names), [])


@given(
    reads=st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)).map(
        lambda reads: {name: tuple(read for read in inputs if read in reads) for name, inputs in reads.items()}
    )
)
def test_each_name_is_ordered_after_its_inputs_or_waits_for_a_cycle(reads):
    ordered, cycles = order(reads)

    seen: set[str] = set()
    for name in ordered:
        assert seen.issuperset(reads[name])
        seen.add(name)
    assert bool(cycles) == (len(ordered) < len(reads))
    for cycle in cycles:
        assert cycle[0] == cycle[-1]
        assert all(after in reads[before] for before, after in itertools.pairwise(cycle))
