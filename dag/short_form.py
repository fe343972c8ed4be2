"""The short form of a specification: a list of operations on the source, and their parameters."""

from __future__ import annotations

from typing import Any

from dag.faults import invalid_plan, quote
from dag.json_fields import load
from dag.plan import SOURCE, Plan, Source
from dag.specification import build
from dag.step_draft import RESERVED_FIELDS
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import Fault, InvalidPlan, pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS

_BUNDLERS = frozenset(name for name, operation in OPERATIONS.items() if operation.max_inputs is None)


def parse_short(
    operations: str, operation_params: str | None, source: Source, max_steps: int, limits: Limits,
    weights: str = SHIPPED_SHA256,
) -> Plan:  # fmt: skip
    """Return the plan of a request in the short form. `operations` and `operation_params` are JSON.

    Each operation becomes a step with the name of the operation. A bundle reads the files of all steps that are not
    bundles. Each other step reads the source.

    Raises BadRequest if a field is not JSON, and InvalidPlan with a fault for each mistake.
    """
    loaded_operations = load("operations", operations)
    loaded_params = load("operation_params", operation_params) if operation_params is not None else {}
    names, params = _names(loaded_operations, max_steps), _params(loaded_params)
    faults = [*_repeated_names(names), *_unused_params(params, names), *_reserved_params(params)]
    try:
        plan = build(_steps(names, params), source, max_steps, limits, weights)
    except InvalidPlan as error:
        faults += [_in_short_form(fault, names) for fault in error.faults]
    if faults:
        raise invalid_plan(faults)
    return plan


def _names(value: object, max_steps: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise invalid_plan([Fault("/operations", 'must be a list of operations, such as ["webp", "avif"]')])
    if len(value) > max_steps:
        raise invalid_plan(
            [Fault("/operations", f"{len(value)} operations are too many; at most {max_steps} are accepted")]
        )
    return value


def _params(value: object) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise invalid_plan([Fault("/operation_params", 'must be an object, such as {"webp": {"quality": 80}}')])
    wrong = 'must be an object of parameters, such as {"quality": 80}'
    faults = [
        Fault(pointer("operation_params", name), wrong)
        for name, fields in value.items()
        if not isinstance(fields, dict)
    ]
    if faults:
        raise invalid_plan(faults)
    return value


def _repeated_names(names: list[str]) -> list[Fault]:
    return [
        Fault(pointer("operations", index), f"{quote(name)} is given twice; use `steps` to run it in two ways")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


def _unused_params(params: dict[str, dict[str, Any]], names: list[str]) -> list[Fault]:
    return [
        Fault(pointer("operation_params", name), f"is not among the operations: {', '.join(names)}")
        for name in params
        if name not in names
    ]


def _reserved_params(params: dict[str, dict[str, Any]]) -> list[Fault]:
    return [
        Fault(pointer("operation_params", name, field), "is not a parameter")
        for name, fields in params.items()
        for field in RESERVED_FIELDS
        if field in fields
    ]


def _steps(names: list[str], params: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the `steps` document that means the same as the short form."""
    bundled = [name for name in names if name not in _BUNDLERS] or SOURCE
    return {
        name: params.get(name, {}) | {"op": name, "input": bundled if name in _BUNDLERS else SOURCE} for name in names
    }


def _in_short_form(fault: Fault, names: list[str]) -> Fault:
    """Return a fault that points to the field that the client sent. `fault` points into the generated document."""
    match fault.pointer.split("/")[1:]:
        case ["steps", name, "op" | "input"] | ["steps", name]:
            at = pointer("operations", names.index(name)) if name in names else "/operations"
            return Fault(at, fault.detail)
        case ["steps", name, *rest]:
            return Fault("/".join(["/operation_params", name, *rest]), fault.detail)
        case ["steps"]:
            return Fault("/operations", fault.detail)
        case _:
            return fault  # the fault is about a part, and the pointer to a part is the same in both forms
