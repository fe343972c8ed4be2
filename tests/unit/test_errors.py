"""Every error class has a title, a status and a unique code. Every error can be sent between processes."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from pixtools.errors import Fault, PixToolsError, pointer


def tree(root: type[PixToolsError] = PixToolsError) -> list[type[PixToolsError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in tree(child))]


FAULTS = (Fault("/steps/a", "is wrong"), Fault("/steps/b", "is wrong too"))


@pytest.mark.parametrize("kind", tree())
@pytest.mark.parametrize("arguments", [(), ("A detail.",), ("A detail.", FAULTS)], ids=["bare", "detail", "faults"])
def test_an_error_can_be_pickled(kind, arguments):
    error = kind(*arguments)

    back = pickle.loads(pickle.dumps(error))

    assert type(back) is kind
    assert (back.detail, back.faults, str(back)) == (error.detail, error.faults, str(error))
    assert back.problem() == error.problem()


@pytest.mark.parametrize("kind", tree())
def test_a_problem_has_type_title_status_code_and_detail(kind):
    problem = kind("A detail.", FAULTS).problem()

    assert problem == {
        "type": f"/problems/{kind.code}",
        "title": kind.__doc__.split("\n", 1)[0].rstrip("."),
        "status": kind.status,
        "code": kind.code,
        "detail": "A detail.",
        "errors": [
            {"pointer": "/steps/a", "detail": "is wrong"},
            {"pointer": "/steps/b", "detail": "is wrong too"},
        ],
    }


@pytest.mark.parametrize("kind", tree())
def test_the_detail_of_an_error_without_one_is_its_title(kind):
    assert kind().problem()["detail"] == kind.title() != ""


def test_codes_are_unique():
    assert [code for code, times in Counter(kind.code for kind in tree()).items() if times > 1] == []


@pytest.mark.parametrize("kind", tree())
def test_every_status_is_an_error_and_only_a_retryable_error_has_a_retry_after(kind):
    assert 400 <= kind.status < 600
    assert kind.retryable == (kind.retry_after_s is not None)


def test_bad_input_is_never_retried():
    assert not [kind for kind in tree() if kind.status in (400, 413, 415, 422) and kind.retryable]


def test_the_text_of_an_error_has_its_detail_and_its_faults():
    assert str(PixToolsError("2 mistakes", FAULTS)) == "2 mistakes; /steps/a: is wrong; /steps/b: is wrong too"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), ""),
        (("steps", "a"), "/steps/a"),
        (("operations", 0), "/operations/0"),
        (("a/b", "m~n"), "/a~1b/m~0n"),
        (("~1",), "/~01"),
        (("",), "/"),
    ],
)
def test_pointers_are_escaped(parts, expected):
    assert pointer(*parts) == expected
