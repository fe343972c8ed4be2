"""Forms that `POST /api/process` accepts, and the field that each error names."""

from __future__ import annotations

import json

import pytest
from images import LIMITS

from dag.plan import Plan, Source
from dag.process_form import is_result, parse_process
from pixtools.errors import BadRequest, InvalidPlan

SOURCE = Source("a.jpg", "ab" * 32, (400, 300), media_type="image/jpeg")


def plan(operations: object, params: object = None) -> Plan:
    given = None if params is None else json.dumps(params)
    return parse_process(json.dumps(operations), given, SOURCE, 50, LIMITS)


def steps(operations: object, params: object = None) -> dict[str, tuple]:
    return {
        step.name: (step.operation.name, step.inputs, step.params.given()) for step in plan(operations, params).steps
    }


def faults(operations: object, params: object = None) -> dict[str, str]:
    with pytest.raises(InvalidPlan) as caught:
        plan(operations, params)
    return {fault.pointer: fault.detail for fault in caught.value.faults}


def test_names_in_any_case_and_repeated_ones_make_one_step_each():
    asked = ["WEBP", "webp", "AVIF", "PNG", "DENOISE", "METADATA"]
    assert set(steps(asked)) == {"webp", "avif", "png", "denoise", "metadata"}
    png = Source("a.png", "ab" * 32, (400, 300), media_type="image/png")
    assert [step.name for step in parse_process('["JPEG", "JPG", "jpg"]', None, png, 50, LIMITS).steps] == ["jpg"]


def test_numbers_may_be_texts():
    params = {"WebP": {"quality": "70", "resize": {"width": " 200 "}}, "denoise": {"strength": "0.5"}}
    found = steps(["webp", "denoise"], params)
    assert found["webp"] == ("webp", ("source",), {"quality": 70, "resize": {"width": 200}})
    assert found["denoise"] == ("denoise", ("source",), {"strength": 0.5})


@pytest.mark.parametrize(
    "params",
    [
        None, {}, {"webp": None}, {"webp": {}}, {"webp": {"quality": None, "resize": None}}, {"avif": 5},
        {"webp": {"speed": [1], "op": "png", "input": "x"}}, {"webp": {"resize": {}}}, {"tiff": {"quality": 5}},
        {"webp": {"resize": {"width": None, "height": None, "mode": "fast"}}},
    ],
)  # fmt: skip
def test_what_is_null_unknown_or_not_asked_for_has_no_effect(params):
    assert steps(["webp"], params) == {"webp": ("webp", ("source",), {})}


def test_parameters_that_are_json_null_are_accepted():
    assert [step.name for step in parse_process('["webp"]', "null", SOURCE, 50, LIMITS).steps] == ["webp"]


def test_a_denoised_picture_is_resized_under_the_name_of_the_operation():
    found = steps(["denoise"], {"denoise": {"strength": 0.5, "resize": {"width": "100", "depth": 1}}})
    assert found == {
        "denoise-full-size": ("denoise", ("source",), {"strength": 0.5}),
        "denoise": ("resize", ("denoise-full-size",), {"width": 100}),
    }
    assert [name for name in found if is_result(name, found[name][0])] == ["denoise"]


def test_two_sides_are_a_box_that_neither_stretches_nor_enlarges():
    for size, expected in (((200, 200), (200, 150)), ((4000, 4000), (400, 300))):
        params = {"webp": {"resize": {"width": size[0], "height": size[1]}}}
        assert plan(["webp"], params).by_name["webp"].size == expected


def test_a_zip_contains_what_was_asked_for():
    assert steps(["zip", "denoise", "webp"], {"denoise": {"resize": {"width": 9}}})["zip"][1] == ("denoise", "webp")
    assert steps(["ZIP"])["zip"][1] == ("source",)


@pytest.mark.parametrize("name", ["JPG", "jpg", "jpeg"])
def test_the_format_of_the_source_is_refused(name):
    assert faults(["webp", name]).keys() == {"/operations/1"}


@pytest.mark.parametrize("operations", [None, 5, "webp", {}, []])
def test_operations_of_a_wrong_type_are_refused(operations):
    assert faults(operations).keys() == {"/operations"}


def test_each_wrong_operation_is_named():
    assert faults(["webp", "tiff", "a/b"]).keys() == {"/operations/1", "/operations/2"}
    assert faults(["webp", 5, None]).keys() == {"/operations/1", "/operations/2"}


@pytest.mark.parametrize(
    ("operation", "params", "at"),
    [
        ("WEBP", 5, "/operation_params"),
        ("WEBP", {"webp": 80}, "/operation_params/webp"),
        ("webp", {"WebP": {"quality": 101}}, "/operation_params/WebP/quality"),
        ("webp", {"webp": {"quality": "high"}}, "/operation_params/webp/quality"),
        ("webp", {"webp": {"quality": "8.5"}}, "/operation_params/webp/quality"),
        ("webp", {"webp": {"quality": True}}, "/operation_params/webp/quality"),
        ("webp", {"webp": {"resize": 5}}, "/operation_params/webp/resize"),
        ("webp", {"webp": {"resize": {"width": 20_000}}}, "/operation_params/webp/resize/width"),
        ("webp", {"webp": {"resize": {"width": 0}}}, "/operation_params/webp/resize/width"),
        ("denoise", {"DENOISE": {"resize": {"height": "20000"}}}, "/operation_params/DENOISE/resize/height"),
        ("denoise", {"denoise": {"resize": "small"}}, "/operation_params/denoise/resize"),
        ("denoise", {"denoise": {"resize": ""}}, "/operation_params/denoise/resize"),
        ("denoise", {"denoise": {"resize": 0}}, "/operation_params/denoise/resize"),
        ("denoise", {"denoise": {"resize": []}}, "/operation_params/denoise/resize"),
        ("denoise", {"denoise": {"resize": False}}, "/operation_params/denoise/resize"),
        ("denoise", {"denoise": {"strength": 2, "resize": {"width": 9}}}, "/operation_params/denoise/strength"),
        ("crop", {"crop": {"width": 0, "height": 9}}, "/operation_params/crop/width"),
    ],
)
def test_a_fault_points_to_what_the_client_sent(operation, params, at):
    assert at in faults([operation], params)


def test_two_spellings_of_one_operation_are_refused():
    assert faults(["webp"], {"webp": {}, "WEBP": {}}).keys() == {"/operation_params/WEBP"}


def test_a_text_that_is_not_json_is_refused():
    with pytest.raises(BadRequest):
        parse_process("webp", None, SOURCE, 50, LIMITS)
