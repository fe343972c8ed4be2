"""A `steps` document becomes a plan, or an error with a fault for each mistake."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from images import LIMITS
from plans import SHA, documents, plan

from dag.plan import SOURCE, Plan, Source
from dag.short_form import parse_short
from dag.specification import build, parse
from pixtools.errors import BadRequest, Fault, InvalidPlan, InvalidRequest, PixToolsError, pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS

EXAMPLE = {
    "clean": {"op": "resize", "input": "source", "width": 2000},
    "web": {"op": "webp", "input": "clean", "quality": 80, "resize": {"width": 1280}},
    "small": {"op": "avif", "input": "clean", "resize": {"width": 320}},
    "exif": {"op": "metadata", "input": "source"},
    "all": {"op": "zip", "input": ["web", "small", "exif"]},
}
"""A document with a `resize` step, two encoders that read it, a `metadata` step and a `zip` step."""


def parsed(text: str, max_steps: int = 50) -> Plan:
    """Return the plan of a `steps` document for a source of 4000 × 3000."""
    return parse(text, Source("IMG_1.jpg", SHA, (4000, 3000)), max_steps, LIMITS)


def short(operations: str, params: str | None = None) -> Plan:
    """Return the plan of the short form for a source of 4000 × 3000."""
    return parse_short(operations, params, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, LIMITS)


def faults_of(call: Any, *args: Any) -> dict[str, str]:
    """Return the messages of the InvalidPlan that a call raises. The keys are the pointers."""
    with pytest.raises(InvalidPlan) as caught:
        call(*args)
    faults = caught.value.faults
    assert caught.value.detail.startswith(f"{len(faults)} mistake")
    found: dict[str, str] = {}
    for fault in faults:
        found[fault.pointer] = "; ".join(filter(None, [found.get(fault.pointer), fault.detail]))
    return found


def test_a_valid_document_becomes_a_plan():
    made = parsed(json.dumps(EXAMPLE))

    assert [step.name for step in made.steps] == ["clean", "exif", "web", "small", "all"]
    assert {step.name: step.inputs for step in made.steps} == {
        "clean": ("source",),
        "web": ("clean",),
        "small": ("clean",),
        "exif": ("source",),
        "all": ("web", "small", "exif"),
    }
    assert made.by_name["web"].operation is OPERATIONS["webp"]
    assert made.by_name["web"].params.given() == {"resize": {"width": 1280}}
    assert made.pixel_readers["clean"] == ("web", "small")
    assert made.by_name["all"].file_name == "IMG_1-all.zip"
    assert [step.name for step in made.steps if step.leaves_file] == ["exif", "web", "small", "all"]


def test_the_order_in_which_steps_are_written_does_not_change_their_keys():
    backwards = dict(reversed(EXAMPLE.items()))

    made = parsed(json.dumps(backwards))

    assert {step.name: step.key for step in made.steps} == {step.name: step.key for step in plan(EXAMPLE).steps}


@pytest.mark.parametrize(
    ("document", "leaves"),
    [
        ({"a": {"op": "resize", "input": "source", "width": 9}}, {"a"}),
        ({"a": {"op": "resize", "input": "source", "width": 9}, "b": {"op": "png", "input": "a"}}, {"b"}),
        (
            {"a": {"op": "resize", "input": "source", "width": 9, "keep": True}, "b": {"op": "png", "input": "a"}},
            {"a", "b"},
        ),
        ({"a": {"op": "resize", "input": "source", "width": 9}, "z": {"op": "zip", "input": "a"}}, {"a", "z"}),
    ],
)
def test_pixels_are_stored_if_no_step_reads_them_or_a_bundle_does_or_keep_is_set(document, leaves):
    assert {step.name for step in plan(document).steps if step.leaves_file} == leaves


MISTAKES = [
    pytest.param([], {"/steps": "object"}, id="a list"),
    pytest.param(None, {"/steps": "object"}, id="null"),
    pytest.param("webp", {"/steps": "object"}, id="text"),
    pytest.param({}, {"/steps": "at least one"}, id="no step"),
    pytest.param({"a": None}, {"/steps/a": "object"}, id="a step that is null"),
    pytest.param({"a": ["png"]}, {"/steps/a": "object"}, id="a step that is a list"),
    pytest.param({"a": {}}, {"/steps/a/op": "missing", "/steps/a/input": "missing"}, id="an empty step"),
    pytest.param({"a": {"input": "source"}}, {"/steps/a/op": "missing; use one of jpg, png"}, id="no op"),
    pytest.param(
        {"a": {"op": "gif", "input": "source"}}, {"/steps/a/op": "'gif' is not an operation"}, id="unknown op"
    ),
    pytest.param({"a": {"op": 7, "input": "source"}}, {"/steps/a/op": "7 is not an operation"}, id="op is a number"),
    pytest.param({"a": {"op": ["png"], "input": "source"}}, {"/steps/a/op": "not an operation"}, id="op is a list"),
    pytest.param({"a": {"op": "png"}}, {"/steps/a/input": "missing"}, id="no input"),
    pytest.param({"a": {"op": "png", "input": None}}, {"/steps/a/input": "must be"}, id="null input"),
    pytest.param({"a": {"op": "png", "input": []}}, {"/steps/a/input": "must be"}, id="empty input"),
    pytest.param({"a": {"op": "zip", "input": ["source", 1]}}, {"/steps/a/input": "must be"}, id="input is a number"),
    pytest.param(
        {"a": {"op": "png", "input": "b"}}, {"/steps/a/input": "no step 'b'; use one of source"}, id="unknown input"
    ),
    pytest.param(
        {"a": {"op": "zip", "input": ["source", "b"]}},
        {"/steps/a/input/1": "no step 'b'"},
        id="one unknown input of two",
    ),
    pytest.param(
        {"a": {"op": "zip", "input": ["source", "source"]}},
        {"/steps/a/input/1": "'source' is given twice"},
        id="an input twice",
    ),
    pytest.param(
        {"b": {"op": "resize", "input": "source", "width": 9}, "a": {"op": "png", "input": ["source", "b"]}},
        {"/steps/a/input": "2 inputs are too many; png reads 1"},
        id="too many inputs",
    ),
    pytest.param(
        {"a": {"op": "resize", "input": "a", "width": 9}}, {"/steps/a/input": "a → a"}, id="a step that reads itself"
    ),
    pytest.param(
        {"a": {"op": "resize", "input": "b", "width": 9}, "b": {"op": "resize", "input": "a", "width": 9}},
        {"/steps/a/input": "is a cycle: a → b → a"},
        id="a cycle of two",
    ),
    pytest.param(
        {
            "x": {"op": "png", "input": "c"},
            "a": {"op": "resize", "input": "c", "width": 9},
            "b": {"op": "resize", "input": "a", "width": 9},
            "c": {"op": "resize", "input": "b", "width": 9},
        },
        {"/steps/c/input": "is a cycle: c → a → b → c"},
        id="a cycle that another step reads",
    ),
    pytest.param(
        {
            "a": {"op": "resize", "input": "a", "width": 9},
            "b": {"op": "resize", "input": "c", "width": 9},
            "c": {"op": "resize", "input": "b", "width": 9},
        },
        {"/steps/a/input": "cycle: a → a", "/steps/b/input": "cycle"},
        id="two cycles",
    ),
    pytest.param(
        {"a": {"op": "png", "input": "source"}, "b": {"op": "webp", "input": "a"}},
        {"/steps/b/input": "'a' makes a finished file (png), but webp needs pixels; read the source instead, or a"},
        id="a reader of pixels has a file as input",
    ),
    pytest.param(
        {"a": {"op": "resize", "input": "source", "width": 9}, "b": {"op": "metadata", "input": "a"}},
        {"/steps/b/input": "'a' (resize) makes no image file, but metadata needs one; read a step that makes one"},
        id="a reader of files has pixels as input",
    ),
    pytest.param({"": {"op": "png", "input": "source"}}, {"/steps/": "not a valid name"}, id="a step without a name"),
    pytest.param(
        {"a b": {"op": "png", "input": "source"}}, {"/steps/a b": "not a valid name"}, id="a name with a space"
    ),
    pytest.param(
        {"a\n": {"op": "png", "input": "source"}}, {"/steps/a\n": "not a valid name"}, id="a name with a line break"
    ),
    pytest.param(
        {"-a": {"op": "png", "input": "source"}},
        {"/steps/-a": "not a valid name"},
        id="a name that starts like an option",
    ),
    pytest.param(
        {"é": {"op": "png", "input": "source"}}, {"/steps/é": "not a valid name"}, id="a name that is not ASCII"
    ),
    pytest.param({"a" * 65: {"op": "png", "input": "source"}}, {f"/steps/{'a' * 65}": "64"}, id="a name of 65 letters"),
    pytest.param(
        {"a/b~c": {"op": "png", "input": "source"}}, {"/steps/a~1b~0c": "not a valid name"}, id="a name to escape"
    ),
    pytest.param(
        {"a": {"op": "png", "input": "source", "x/y~z": 1}},
        {"/steps/a/x~1y~0z": "not a parameter"},
        id="a field to escape",
    ),
    pytest.param(
        {"a": {"op": "webp", "input": "source", "quality": "80"}},
        {"/steps/a/quality": "input should be a valid integer"},
        id="text for a number",
    ),
    pytest.param(
        {"a": {"op": "webp", "input": "source", "quality": 80.5}},
        {"/steps/a/quality": "integer"},
        id="a fraction for an integer",
    ),
    pytest.param(
        {"a": {"op": "webp", "input": "source", "resize": {"width": 0}}},
        {"/steps/a/resize/width": "greater than or equal to 1"},
        id="a nested value out of range",
    ),
    pytest.param(
        {"a": {"op": "webp", "input": "source", "resize": {}}},
        {"/steps/a/resize": "give a width, a height or both"},
        id="a resize without a side",
    ),
    pytest.param(
        {"a": {"op": "resize", "input": "source"}},
        {"/steps/a": "give a width, a height or both"},
        id="no width and no height",
    ),
    pytest.param(
        {"a": {"op": "webp", "input": "source", "qualty": 1}},
        {"/steps/a/qualty": "is not a parameter of webp; this operation has resize, color, strip, frames, quality, "},
        id="an unknown field",
    ),
    pytest.param(
        {
            "a": {"op": "webp", "input": "nothing", "quality": 0, "x": 1},
            "b": {"op": "gif"},
            "c": 7,
            "d": {"op": "png", "input": "source"},
        },
        {
            "/steps/a/input": "no step 'nothing'",
            "/steps/a/quality": "1",
            "/steps/a/x": "not a parameter",
            "/steps/b/op": "'gif'",
            "/steps/b/input": "missing",
            "/steps/c": "object",
        },
        id="every mistake at once",
    ),
]


def test_an_unknown_parameter_is_answered_with_the_parameters_of_the_catalog():
    document = {"a": {"op": "avif", "input": "source", "foo": 1}}

    found = faults_of(parsed, json.dumps(document))

    listed = found["/steps/a/foo"].partition("this operation has ")[2].split(", ")
    assert listed == list(OPERATIONS["avif"].params.model_json_schema()["properties"])


@pytest.mark.parametrize(("document", "faults"), MISTAKES)
def test_each_mistake_is_named_with_a_pointer_to_it(document, faults):
    found = faults_of(parsed, json.dumps(document))

    assert found.keys() == faults.keys()
    for at, words in faults.items():
        assert words in found[at]


def test_no_step_may_be_named_source():
    found = faults_of(parsed, json.dumps({"source": {"op": "png", "input": "source"}}))

    assert "do not use `source`" in found["/steps/source"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_values_that_are_not_finite_numbers_are_refused(number):
    text = '{"a": {"op": "webp", "input": "source", "quality": NUMBER}}'.replace("NUMBER", number)

    assert faults_of(parsed, text).keys() == {"/steps/a/quality"}


def test_more_steps_than_the_limit_are_refused():
    steps = {f"s{number}": {"op": "png", "input": "source"} for number in range(4)}

    assert len(parsed(json.dumps(steps), max_steps=4).steps) == 4
    assert faults_of(parsed, json.dumps(steps), 3) == {"/steps": "4 steps are too many; at most 3 are accepted"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"op": "png", "input": "source"}, "a": {"op": "jpg", "input": "source"}}',
        '{"a": {"op": "png", "op": "jpg", "input": "source"}}',
        '{"a": {"op": "png", "input": "source", "resize": {"width": 1, "width": 2}}}',
    ],
)
def test_a_name_that_is_used_twice_in_one_object_is_refused_at_any_depth(text):
    assert "used twice in one object" in faults_of(parsed, text)["/steps"]


MALFORMED = ["", "{", "{'a': 1}", '{"a": }', "steps", '{"a": 1}}', '"\x00"', "1" * 5_000, "-" + "1" * 65_000]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:10])
def test_text_that_is_not_json_is_a_bad_request(text):
    with pytest.raises(BadRequest) as caught:
        parsed(text)

    assert [fault.pointer for fault in caught.value.faults] == ["/steps"]
    assert "steps is not JSON" in caught.value.detail


def test_in_the_short_form_each_operation_is_a_step_on_the_source():
    made = short('["webp", "metadata"]', '{"webp": {"quality": 70}}')

    assert [(step.name, step.operation.name, step.inputs) for step in made.steps] == [
        ("webp", "webp", ("source",)),
        ("metadata", "metadata", ("source",)),
    ]
    assert made.by_name["webp"].params.given() == {"quality": 70}


def test_the_short_form_works_without_parameters():
    assert [step.name for step in short('["png"]').steps] == ["png"]


def test_the_short_form_gives_the_same_keys_as_the_same_steps_in_full():
    full = plan({"any": {"op": "webp", "input": "source", "quality": 70}})

    assert short('["webp"]', '{"webp": {"quality": 70}}').steps[0].key == full.steps[0].key


@pytest.mark.parametrize(
    ("operations", "params", "faults"),
    [
        pytest.param('"webp"', None, {"/operations": "must be a list"}, id="text"),
        pytest.param('{"webp": {}}', None, {"/operations": "must be a list"}, id="an object"),
        pytest.param('["webp", 1]', None, {"/operations": "must be a list"}, id="a number in the list"),
        pytest.param("[]", None, {"/operations": "at least one"}, id="none"),
        pytest.param('["webp", "gif"]', None, {"/operations/1": "'gif' is not an operation"}, id="unknown"),
        pytest.param('["webp", "png", "webp"]', None, {"/operations/2": "'webp' is given twice"}, id="twice"),
        pytest.param('["source"]', None, {"/operations/0": ""}, id="source"),
        pytest.param('["png"]', "[]", {"/operation_params": "must be an object"}, id="a list of parameters"),
        pytest.param('["png"]', '{"png": 3}', {"/operation_params/png": "an object of parameters"}, id="a number"),
        pytest.param('["png"]', '{"avif": {}}', {"/operation_params/avif": "not among"}, id="parameters of another"),
        pytest.param(
            '["webp"]', '{"webp": {"quality": 0}}', {"/operation_params/webp/quality": "1"}, id="out of range"
        ),
        pytest.param(
            '["webp"]',
            '{"webp": {"resize": {"width": "1"}}}',
            {"/operation_params/webp/resize/width": "integer"},
            id="nested",
        ),
        pytest.param(
            '["webp"]', '{"webp": {"input": "source"}}', {"/operation_params/webp/input": "not a parameter"}, id="input"
        ),
        pytest.param('["webp"]', '{"webp": {"op": "png"}}', {"/operation_params/webp/op": "not a parameter"}, id="op"),
        pytest.param(
            '["webp"]', '{"webp": {"a/b": 1}}', {"/operation_params/webp/a~1b": "not a parameter"}, id="escaped"
        ),
        pytest.param(
            '["gif", "webp"]',
            '{"webp": {"quality": 0, "x": 1}}',
            {
                "/operations/0": "'gif'",
                "/operation_params/webp/quality": "1",
                "/operation_params/webp/x": "not a parameter",
            },
            id="every mistake at once",
        ),
    ],
)
def test_mistakes_in_the_short_form_point_into_its_fields(operations, params, faults):
    found = faults_of(short, operations, params)

    assert found.keys() == faults.keys()
    for at, words in faults.items():
        assert words in found[at]


@pytest.mark.parametrize("operations", ['"webp"', '{"webp": {}}', '["webp", 1]', "null"])
def test_operations_that_are_not_a_list_of_names_are_one_mistake(operations):
    assert faults_of(short, operations) == {"/operations": 'must be a list of operations, such as ["webp", "avif"]'}


def test_a_missing_size_in_the_short_form_points_to_its_operation():
    assert faults_of(short, '["resize"]', None).keys() <= {"/operation_params/resize", "/operations/0"}


@pytest.mark.parametrize(
    ("operations", "params", "field"), [("[", None, "operations"), ('["png"]', "{", "operation_params")]
)
def test_a_short_form_that_is_not_json_is_a_bad_request(operations, params, field):
    with pytest.raises(BadRequest, match=f"{field} is not JSON") as caught:
        short(operations, params)

    assert [fault.pointer for fault in caught.value.faults] == [f"/{field}"]


TEXT = st.text(st.characters(), max_size=8)  # includes NUL and unpaired surrogates, which JSON allows
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["a", "b", "c", SOURCE]) | TEXT
STEPS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {},
        optional={
            "op": st.sampled_from(sorted(OPERATIONS)) | VALUES,
            "input": NAMES | st.lists(NAMES, max_size=4) | VALUES,
            "quality": st.integers(-1, 102) | VALUES,
            "width": st.integers(-1, 20_000) | VALUES,
            "resize": st.fixed_dictionaries({}, optional={"width": VALUES, "height": st.integers(), "x": VALUES})
            | VALUES,
            "keep": VALUES,
            "a/b~c": VALUES,
        },
    )
    | VALUES,
    max_size=5,
)


def check_answer(call: Any, *args: Any) -> None:
    """Check that `call` returns a plan, or raises an error that has faults and can be sent in UTF-8."""
    try:
        assert isinstance(call(*args), Plan)
    except (InvalidPlan, InvalidRequest, BadRequest) as refused:
        problem = refused.problem()
        json.dumps(problem, ensure_ascii=False).encode()
        assert problem["errors"]
        assert all(fault["pointer"].startswith("/") and fault["detail"] for fault in problem["errors"])


@given(document=VALUES | STEPS)
@example(document={"\ud800": {"op": "png", "input": "source"}})
@example(document={"a": {"op": "\ud800", "input": "source"}})
@example(document={"a": {"op": "png", "input": "source", "\ud800": 1}})
@example(document={"a": {"op": "png", "input": "\ud800"}})
def test_any_json_gives_a_plan_or_an_error_that_can_be_sent(document):
    check_answer(parsed, json.dumps(document))


@given(text=st.text(st.characters(), max_size=40) | st.text('{}[]":,ab1.e-\\u ', max_size=40))
def test_any_text_gives_a_plan_or_an_error_that_can_be_sent(text):
    check_answer(parsed, text)


@given(
    operations=st.lists(st.sampled_from(sorted(OPERATIONS)) | TEXT, max_size=4) | VALUES,
    params=st.none() | VALUES | st.dictionaries(st.sampled_from(sorted(OPERATIONS)), VALUES, max_size=3),
)
def test_any_short_form_gives_a_plan_or_an_error_that_can_be_sent(operations, params):
    check_answer(short, json.dumps(operations), None if params is None else json.dumps(params))


@given(document=documents())
def test_each_step_comes_after_its_inputs(document):
    made = plan(document)

    assert sorted(step.name for step in made.steps) == sorted(document)
    seen = {SOURCE}
    for step in made.steps:
        assert seen.issuperset(step.inputs)
        seen.add(step.name)


@pytest.mark.parametrize("depth", [17, 500, 5_000])
@pytest.mark.parametrize("text", ["[", '{"a":', '{"a": {"op": ['])
def test_text_that_is_nested_deeply_is_a_bad_request(depth, text):
    opened = text * -(-depth // sum(map(text.count, "[{")))  # at least `depth` levels
    closed = "".join("]" if char == "[" else "}" for char in reversed(opened) if char in "[{")

    with pytest.raises(BadRequest, match="steps is nested too deeply"):
        parsed(opened + "1" + closed)


def test_sixteen_levels_of_json_are_read():
    assert faults_of(parsed, "[" * 16 + "]" * 16) == {"/steps": "must be an object of named steps"}


def test_a_field_over_64_kilobytes_is_refused_before_it_is_read():
    for text in (" " * 65_535 + "{}", " " * 30_000 + "é" * 20_000, '{"a":' * 20_000):
        with pytest.raises(InvalidRequest, match=r"steps: has more than 65,536 bytes; use fewer") as caught:
            parsed(text)
        assert [fault.pointer for fault in caught.value.faults] == ["/steps"]
    with pytest.raises(InvalidRequest, match="operation_params: has more than 65,536 bytes"):
        short('["webp"]', " " * 65_535 + "{}")


def test_a_field_of_64_kilobytes_is_read():
    text = '{"a": {"op": "png", "input": "source"}}'

    assert [step.name for step in parsed(text.rjust(65_536)).steps] == ["a"]


def test_only_100_faults_are_listed():
    wrong = {f"x{number}": 1 for number in range(2)}
    steps = {f"s{number}": {"op": "png", "input": "source"} | wrong for number in range(50)}

    assert len(faults_of(parsed, json.dumps(steps))) == 100
    steps["s0"]["x2"] = 1
    with pytest.raises(InvalidPlan) as caught:
        parsed(json.dumps(steps))
    assert caught.value.detail == "More than 100 mistakes in the steps; only the first 100 are listed."
    assert len(caught.value.faults) == 100


def test_the_faults_of_both_forms_are_limited_together():
    params = {op: {f"x{number}": 1 for number in range(60)} for op in ("png", "jpg")} | {"avif": {}}

    with pytest.raises(InvalidPlan, match="More than 100 mistakes") as caught:
        short('["png", "jpg"]', json.dumps(params))

    assert len(caught.value.faults) == 100
    assert {fault.pointer.split("/")[1] for fault in caught.value.faults} == {"operation_params"}


def test_more_parameters_than_any_operation_has_are_one_mistake():
    step = {"op": "webp", "input": "source"} | {f"x{number}": 1 for number in range(65)}

    assert faults_of(parsed, json.dumps({"a": step})) == {
        "/steps/a": "65 parameters are too many; at most 64 are accepted"
    }


def test_more_than_100_mistakes_inside_a_parameter_are_one_mistake():
    step = {"op": "png", "input": "source", "resize": {"width": 5} | {f"x{number}": 1 for number in range(101)}}

    found = faults_of(parsed, json.dumps({"a": step}))

    assert found.keys() == {"/steps/a"}
    assert found["/steps/a"].startswith("has 101 mistakes in its parameters; this operation has resize, ")


def test_long_names_are_cut_in_pointers_and_messages():
    long = "n" * 10_000
    documents = [
        {long: {"op": "png", "input": "source"}},
        {"a": {"op": long, "input": "source"}},
        {"a": {"op": "png", "input": long}},
        {"a": {"op": "png", "input": "source", long: 1}},
        {"a": {"op": "png", "input": "source", "resize": {"width": 5, long: 1}}},
        {"a": {"op": "watermark", "input": "source", "image": long}},
    ]
    for document in documents:
        for at, detail in faults_of(parsed, json.dumps(document)).items():
            assert len(at) < 200
            assert len(detail) < 400
    for operations, params in ((json.dumps([long]), None), ('["png"]', json.dumps({long: {}}))):
        for at, detail in faults_of(short, operations, params).items():
            assert len(at) < 200
            assert len(detail) < 400


def test_a_long_list_of_steps_is_cut_in_a_message():
    steps = {f"step-number-{number}": {"op": "png", "input": "source"} for number in range(49)}

    (message,) = faults_of(parsed, json.dumps(steps | {"a": {"op": "png", "input": "b"}})).values()

    assert message.startswith("there is no step 'b'; use one of source, step-number-0, step-number-1, ")
    assert message.endswith(", … (50 in all)")
    assert len(message) < 300


def test_a_long_cycle_is_cut_in_its_message():
    steps = {
        f"step-number-{number}": {"op": "resize", "input": f"step-number-{(number + 1) % 50}", "width": 9}
        for number in range(50)
    }

    (message,) = faults_of(parsed, json.dumps(steps)).values()

    assert message.startswith("is a cycle: step-number-0 → step-number-49 → step-number-48")
    assert message.endswith(" → … (51 in all)")


def test_an_operation_with_a_slash_in_its_name_is_named_by_its_place():
    assert faults_of(short, '["png", "a/b"]').keys() == {"/operations/1"}


def test_each_name_that_differs_only_in_case_from_another_is_named():
    steps = {name: {"op": "png", "input": "source"} for name in ("web", "a", "WEB", "A", "Web")}

    assert faults_of(parsed, json.dumps(steps)).keys() == {"/steps/web", "/steps/WEB", "/steps/a"}


MANY_FIELDS = {"op": "webp", "input": "source"} | {f"x{number}": 1 for number in range(8_000)}

HOSTILE = [
    pytest.param({"a" * 160_000: MANY_FIELDS}, id="a long name and many fields"),
    pytest.param({"a": MANY_FIELDS}, id="many fields"),
    pytest.param({f"s{n}": MANY_FIELDS for n in range(50)}, id="many fields in many steps"),
    pytest.param({"a": {"op": "png", "input": "source", "resize": MANY_FIELDS}}, id="many fields in a parameter"),
    pytest.param({"a": {"op": "zip", "input": ["a"] * 60_000}}, id="one input many times"),
    pytest.param({"a": {"op": "zip", "input": [f"b{n}" for n in range(30_000)]}}, id="many unknown inputs"),
    pytest.param({f"s{n}": {"op": "zip", "input": [f"x{i}" for i in range(50)]} for n in range(50)}, id="50 × 50"),
    pytest.param({f"s{n}": {"op": "png", "input": "x"} for n in range(4_000)}, id="many steps"),
    pytest.param({f"s{n}": 1 for n in range(10_000)}, id="many names"),
    pytest.param({"a": {"op": ["x" * 200] * 1_000, "input": "source"}}, id="a long list as the operation"),
]


def costs(call: Any, *args: Any) -> tuple[float, int, int]:
    """Return the CPU time, the peak of allocated memory, and the size of the problem that a refused call has."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(PixToolsError) as caught:
            call(*args)
        seconds, (_, peak_bytes) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return seconds, peak_bytes, len(json.dumps(caught.value.problem(), ensure_ascii=False).encode())


@pytest.mark.parametrize("document", HOSTILE)
def test_the_cost_of_a_hostile_document_is_bounded_without_the_limit_of_its_size(document):
    """The limit of the text's size hides the cost of the checks, so this test calls `build`."""
    seconds, peak_bytes, problem_bytes = costs(build, document, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, LIMITS)

    assert seconds < 5
    assert peak_bytes < 20_000_000
    assert problem_bytes < 65_536


@pytest.mark.parametrize("document", HOSTILE)
def test_the_cost_of_a_hostile_text_is_bounded(document):
    seconds, peak_bytes, problem_bytes = costs(parsed, json.dumps(document))

    assert seconds < 5
    assert peak_bytes < 20_000_000
    assert problem_bytes < 65_536


@pytest.mark.parametrize(
    ("operations", "params"),
    [
        pytest.param(["a" * 100_000], {"a" * 100_000: {}} | {f"x{n}": {} for n in range(4_000)}, id="a long name"),
        pytest.param(["a" * 1_000] * 50, {f"x{n}": {} for n in range(8_000)}, id="151 kB"),
        pytest.param(["a" * 1_000] * 50, {f"x{n}": {} for n in range(4_500)}, id="below the limit of the size"),
        pytest.param(["webp"] * 9_000, {}, id="many operations"),
        pytest.param(["webp"] * 50, {"webp": {f"x{n}": 1 for n in range(5_000)}}, id="one operation many times"),
        pytest.param(["webp"], {f"x{n}": 1 for n in range(6_000)}, id="many numbers"),
    ],
)
def test_the_cost_of_a_hostile_short_form_is_bounded(operations, params):
    seconds, peak_bytes, problem_bytes = costs(short, json.dumps(operations), json.dumps(params))

    assert seconds < 5
    assert peak_bytes < 20_000_000
    assert problem_bytes < 65_536


def test_a_problem_with_a_name_of_900_kilobytes_and_150_fields_is_small():
    name = "a" * 900_000
    faults = tuple(Fault(pointer("steps", name, f"x{number}"), name) for number in range(150))
    raw = (Fault(f"/steps/{name}/x", f"\x01\U0001f600{name}"),) * 150

    for found in (faults, raw):
        problem = InvalidPlan(name, found).problem()
        assert len(problem["errors"]) == 100
        assert len(json.dumps(problem, ensure_ascii=False).encode()) < 65_536


@pytest.mark.parametrize("op", ["metadata", "zip"])
def test_metadata_reads_only_images(op):
    with pytest.raises(InvalidPlan, match="makes no image file"):
        plan({"a": {"op": op, "input": "source"}, "b": {"op": "metadata", "input": "a"}})


def test_names_that_differ_only_in_case_are_refused():
    with pytest.raises(InvalidPlan, match="differs from 'WEB' only in case"):
        plan({"web": {"op": "webp", "input": "source"}, "WEB": {"op": "jpg", "input": "source"}})


def test_a_zip_in_the_short_form_bundles_the_files_of_the_other_steps():
    assert short('["zip", "webp", "metadata"]').by_name["zip"].inputs == ("webp", "metadata")
    assert short('["zip"]').by_name["zip"].inputs == ("source",)


@pytest.mark.parametrize(
    ("encoder", "fits"),
    [({"op": "jpg"}, True), ({"op": "webp", "frames": "first"}, True), ({"op": "webp"}, False)],
    ids=["jpg", "first", "all"],
)
def test_only_frames_that_are_written_count_towards_the_limit(encoder, fits):
    large = encoder | {"input": "source", "resize": {"width": 3000, "upscale": True}}
    source = Source("it.gif", SHA, (1000, 1000), 10)
    limits = Limits(pixels=50_000_000, side=16_384, frames=100)

    if fits:
        assert build({"a": large}, source, 50, limits).by_name["a"].size == (3000, 3000)
    else:
        assert faults_of(build, {"a": large}, source, 50, limits).keys() == {"/steps/a"}


def test_mistakes_that_depend_on_the_source_are_named_with_all_others():
    document = {
        "cut": {"op": "crop", "input": "source", "width": 400, "height": 400, "x": 3_900},
        "out": {"op": "crop", "input": "source", "width": 4, "height": 4, "y": 3_000},
        "web": {"op": "jpg", "input": "cut", "quality": 300},
    }

    found = faults_of(build, document, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, LIMITS)

    assert found.keys() == {"/steps/cut/width", "/steps/out/y", "/steps/web/quality"}


def test_a_step_named_source_is_one_mistake():
    document = {
        "source": {"op": "jpg", "input": "source"},
        "web": {"op": "webp", "input": "source"},
    }

    assert faults_of(build, document, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, LIMITS).keys() == {"/steps/source"}


LARGE_SIDE = {"x": {"op": "resize", "input": "source", "width": 20_000}}


def test_a_side_beyond_the_limit_is_refused_at_its_field():
    found = faults_of(build, LARGE_SIDE, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, LIMITS)

    assert found.keys() == {"/steps/x/width"}
    assert "16384" in found["/steps/x/width"]


@pytest.mark.parametrize("upscale", [False, True])
def test_a_larger_limit_of_the_settings_reaches_the_parameters(upscale):
    limits = Limits(pixels=400_000_000, side=20_000, frames=100)
    document = {"x": LARGE_SIDE["x"] | {"upscale": upscale}}

    made = build(document, Source("IMG_1.jpg", SHA, (4000, 3000)), 50, limits)

    assert made.by_name["x"].size == ((20_000, 15_000) if upscale else (4000, 3000))
