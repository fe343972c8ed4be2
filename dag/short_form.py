"""The short form of a specification: a list of operations on the source, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dag.faults import Faults, invalid_plan, listed, quote
from dag.json_fields import load
from dag.plan import SOURCE, Plan, Source
from dag.specification import build
from dag.step_draft import RESERVED_FIELDS
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS

BUNDLERS = frozenset(name for name, operation in OPERATIONS.items() if operation.max_inputs is None)


def parse_short(
    operations: str, operation_params: str | None, source: Source, max_steps: int, limits: Limits,
    weights: str = SHIPPED_SHA256,
) -> Plan:  # fmt: skip
    """Return the plan of a request in the short form. `operations` and `operation_params` are JSON.

    Each operation becomes a step with the name of the operation. A bundle reads the files of all steps that are not
    bundles. Each other step reads the source.

    Raises InvalidRequest if a field is too large, BadRequest if it is not JSON, and InvalidPlan with a fault for each
    mistake, up to 100.
    """
    loaded_operations = load("operations", operations)
    loaded_params = load("operation_params", operation_params) if operation_params is not None else {}
    names, params = _names(loaded_operations, max_steps), _params(loaded_params)
    # The keys are as long as the names in the pointers that `build` makes.
    positions = {pointer(name): index for index, name in reversed(list(enumerate(names)))}
    faults = Faults(partial(_in_short_form, positions))
    _check_repeated_names(names, faults)
    _check_unused_params(params, names, faults)
    _check_reserved_params(params, faults)
    return build(_steps(names, params), source, max_steps, limits, weights, faults=faults)


def _names(value: object, max_steps: int) -> list[str]:
    if isinstance(value, list) and len(value) > max_steps:
        raise invalid_plan("/operations", f"{len(value)} operations are too many; at most {max_steps} are accepted")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise invalid_plan("/operations", 'must be a list of operations, such as ["webp", "avif"]')
    return value


def _params(value: object) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise invalid_plan("/operation_params", 'must be an object, such as {"webp": {"quality": 80}}')
    faults = Faults()
    for name, fields in value.items():
        if not isinstance(fields, dict):
            faults.add(pointer("operation_params", name), 'must be an object of parameters, such as {"quality": 80}')
    faults.check()
    return value


def _check_repeated_names(names: list[str], faults: Faults) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            faults.add(pointer("operations", index), f"{quote(name)} is given twice; use `steps` to run it in two ways")
        seen.add(name)


def _check_unused_params(params: dict[str, dict[str, Any]], names: list[str], faults: Faults) -> None:
    for name in params:
        if name not in names:
            faults.add(pointer("operation_params", name), f"is not among the operations: {listed(names)}")


def _check_reserved_params(params: dict[str, dict[str, Any]], faults: Faults) -> None:
    for name, fields in params.items():
        for field in RESERVED_FIELDS:
            if field in fields:
                faults.add(pointer("operation_params", name, field), "is not a parameter")


def _steps(names: list[str], params: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the `steps` document that means the same as the short form."""
    different = dict.fromkeys(names)
    bundled = [name for name in different if name not in BUNDLERS] or SOURCE
    return {
        name: params.get(name, {}) | {"op": name, "input": bundled if name in BUNDLERS else SOURCE}
        for name in different
    }


def _in_short_form(positions: Mapping[str, int], at: str) -> str:
    """Return the pointer to the field that the client sent. `at` points into the generated document.

    `positions` holds, for the pointer of each operation, its first place in the list of operations.
    """
    match at.split("/")[1:]:
        case ["steps", name, "op" | "input"] | ["steps", name]:
            index = positions.get(f"/{name}")
            return "/operations" if index is None else pointer("operations", index)
        case ["steps", name, *rest]:
            return "/".join(["/operation_params", name, *rest])
        case ["steps"]:
            return "/operations"
        case _:
            return at  # the pointer to a part is the same in both forms
