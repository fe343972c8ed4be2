"""The form of `POST /api/process`: the short form as the clients of the first PixTools send it.

This module only translates. `specification.build` checks the steps, and each fault points to what the client sent.

- The case of letters in the name of an operation does not matter. `jpeg` means `jpg`. A repeated operation runs once.
- These have no effect: null as a parameter, unknown parameters, and the parameters of operations that were not asked
  for. A number may be a text, such as "80".
- `resize` works for every operation that makes a picture. An operation such as `denoise`, which has no such parameter,
  becomes two steps. The second one resizes, and has the name of the operation, because the client looks for this name.
- If both sides are given, the picture is scaled to fit inside them, as `resize` does by default. It is not
  distorted and not enlarged.
- A conversion to the format of the source is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dag.faults import Faults, invalid_plan, quote
from dag.json_fields import load
from dag.plan import SOURCE, Plan, Source
from dag.short_form import BUNDLERS
from dag.specification import build
from dag.step_draft import RESERVED_FIELDS
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import DataKind, Encoder, Inspector
from pixtools.operations.base.params import Params
from pixtools.operations.base.resizing import Resizing

_ALIASES = {"jpeg": "jpg"}
_FULL_SIZE = "-full-size"  # the end of the name of a step whose picture another step resizes
_INTEGER, _NUMBER = re.compile(r"[+-]?[0-9]{1,18}"), re.compile(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}")

_Values = dict[str, Any]


@dataclass
class _Form:
    """The form as the client sent it. It is needed to point at a mistake in it.

    `places` has the index of each operation in the list. `spellings` has the name of each operation as the client wrote
    it. `resized` has the operations that became two steps.
    """

    places: Mapping[str, int]
    spellings: dict[str, str] = field(default_factory=dict)
    resized: set[str] = field(default_factory=set)

    def locate(self, at: str) -> str:
        """Return the pointer to the field that the client sent. `at` points into the generated document."""
        match at.split("/")[1:]:
            case ["steps"]:
                return "/operations"
            case ["steps", step, *rest]:
                name = step.removesuffix(_FULL_SIZE)
                if not rest or rest[0] in RESERVED_FIELDS:
                    return self._operation(name)
                inner = ["resize"] if step == name and name in self.resized else []
                return "/".join([pointer("operation_params", self.spellings.get(name, name)), *inner, *rest])
            case _:
                return at  # the pointer to a part is the same in both forms

    def _operation(self, escaped: str) -> str:
        """Return the pointer to an operation. `escaped` is its name in a pointer."""
        places = (index for name, index in self.places.items() if pointer(name) == f"/{escaped}")
        return pointer("operations", next(places, 0))


def parse_process(
    operations: str, operation_params: str | None, source: Source, max_steps: int, limits: Limits,
    weights: str = SHIPPED_SHA256,
) -> Plan:  # fmt: skip
    """Parse the form of `POST /api/process`, and return its plan. `operations` and `operation_params` are JSON texts.

    Raises InvalidRequest if a field is too large, BadRequest if it is not JSON, and InvalidPlan with a fault for each
    mistake, up to 100.
    """
    places = _places(load("operations", operations), max_steps)
    loaded = load("operation_params", operation_params) if operation_params is not None else None
    form = _Form(places)
    faults = Faults(form.locate)
    params = _params(loaded, form, faults)
    _check_formats(places, source, faults)
    bundled = [name for name in places if name not in BUNDLERS] or SOURCE
    steps: _Values = {}
    for name in places:
        steps |= _steps(name, params.get(name, {}), bundled if name in BUNDLERS else SOURCE, form)
    return build(steps, source, 2 * max_steps, limits, weights, faults=faults)


def is_asked_for(step: str) -> bool:
    """Return whether the client asked for a step. Some jobs also have steps that the service added."""
    return not step.endswith(_FULL_SIZE)


def is_result(step: str, op: str) -> bool:
    """Return whether a step of a job of `POST /api/process` is among the results that its client gets by name.

    The first PixTools returns the values of `metadata`, but no file of them.
    """
    return is_asked_for(step) and not isinstance(OPERATIONS.get(op), Inspector)


def _places(value: object, max_steps: int) -> dict[str, int]:
    """Return the operations by name, each with its first place in the list. Raises InvalidPlan for another value."""
    if not isinstance(value, list) or not value:
        raise invalid_plan("/operations", 'must be a list of operations, such as ["webp", "denoise"]')
    if len(value) > max_steps:
        raise invalid_plan("/operations", f"{len(value)} operations are too many; at most {max_steps} are accepted")
    faults = Faults()
    places: dict[str, int] = {}
    for index, name in enumerate(value):
        if isinstance(name, str):
            places.setdefault(_plain(name), index)
        else:
            faults.add(pointer("operations", index), "must be the name of an operation, such as webp")
    faults.check()
    return places


def _plain(name: str) -> str:
    """Return the name of an operation as the registry has it. Return an unknown name as the client has sent it."""
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    return plain if plain in OPERATIONS else name


def _params(value: object, form: _Form, faults: Faults) -> dict[str, _Values]:
    """Return the parameters of the operations that were asked for, and note how the client spells their names."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid_plan("/operation_params", 'must be an object, such as {"webp": {"quality": 80}}')
    found: dict[str, _Values] = {}
    for spelling, fields in value.items():
        name = _plain(spelling)
        if name not in form.places or fields is None:
            continue
        at = pointer("operation_params", spelling)
        if name in form.spellings:
            faults.add_at(at, f"is given twice, also as {quote(form.spellings[name])}")
        elif not isinstance(fields, dict):
            faults.add_at(at, 'must be an object of parameters, such as {"quality": 80}')
        elif _is_resized_later(name) and not isinstance(fields.get("resize"), dict | None):
            faults.add_at(f"{at}/resize", 'must be an object, such as {"width": 800}')
        else:
            found[name] = fields
        form.spellings.setdefault(name, spelling)
    return found


def _check_formats(places: Mapping[str, int], source: Source, faults: Faults) -> None:
    """Add a fault for a conversion to the format of the source."""
    for name, index in places.items():
        operation = OPERATIONS.get(name)
        if isinstance(operation, Encoder) and operation.media_type == source.media_type:
            wrong = (
                f"the image is already in this format ({name}); leave it out, or use POST /api/jobs to encode it again"
            )
            faults.add_at(pointer("operations", index), wrong)


def _steps(name: str, given: _Values, read: list[str] | str, form: _Form) -> _Values:
    """Return the steps of an operation: one, or two if another step resizes the picture. Two are noted in `form`."""
    operation = OPERATIONS.get(name)
    if operation is None:
        return {name: {"op": name, "input": read}}
    fields = _known(operation.params, given)
    resize = _resize(given.get("resize")) if _is_resized_later(name) else None
    if resize is None:
        return {name: {**fields, "op": name, "input": read}}
    form.resized.add(name)
    full_size = f"{name}{_FULL_SIZE}"
    return {full_size: {**fields, "op": name, "input": read}, name: {**resize, "op": "resize", "input": full_size}}


def _is_resized_later(name: str) -> bool:
    """Return whether a step of its own has to resize the picture of an operation."""
    operation = OPERATIONS.get(name)
    return operation is not None and operation.makes is DataKind.PIXELS and not issubclass(operation.params, Resizing)


def _known(model: type[Params], given: _Values) -> _Values:
    """Return the parameters that a model has, without nulls, and with numbers instead of texts."""
    known: _Values = {}
    for name, value in given.items():
        cleaned = _resize(value) if name == "resize" else value
        if name in model.model_fields and cleaned is not None:
            known[name] = _number(cleaned) if name in _numeric(model) else cleaned
    return known


def _resize(value: object) -> Any:
    """Return the parameters of `resize`. Return None if there are none."""
    return _known(Resizing, value) or None if isinstance(value, dict) else value


@cache
def _numeric(model: type[Params]) -> frozenset[str]:
    """Return the parameters of a model that are numbers, according to its JSON Schema."""
    properties = model.model_json_schema().get("properties", {})
    return frozenset(
        name
        for name, schema in properties.items()
        if any(kind.get("type") in ("integer", "number") for kind in (schema, *schema.get("anyOf", ())))
    )


def _number(value: object) -> object:
    """Return the number that a text contains. Return every other value unchanged."""
    text = value.strip() if isinstance(value, str) else ""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else value
