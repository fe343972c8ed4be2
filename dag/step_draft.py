"""Reads one step of a `steps` document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from dag.faults import quote
from dag.plan import NAME, SOURCE
from pixtools.errors import Fault, pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import AnyOperation, Composite
from pixtools.operations.base.params import Params

RESERVED_FIELDS = ("op", "input")
"""The fields of a step that are not parameters."""


@dataclass(frozen=True)
class StepDraft:
    """One step as the client wrote it. If a value cannot be read, it is None or empty, and `faults` says why."""

    name: str
    operation: AnyOperation | None = None
    params: Params | None = None
    inputs: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def parts(self) -> Mapping[str, str]:
        """The names of the parts that the step uses, by the name of the parameter."""
        if not isinstance(self.operation, Composite) or self.params is None:
            return {}
        return self.operation.parts(self.params)

    @property
    def bundles(self) -> bool:
        """Whether the operation is a bundle, which reads any number of inputs."""
        return self.operation is not None and self.operation.max_inputs is None

    def complete(self) -> tuple[AnyOperation, Params]:
        """Return the operation and its parameters. The draft must have no faults."""
        assert self.operation is not None and self.params is not None  # noqa: S101, PT018
        return self.operation, self.params


def read_step(name: str, spec: object, limits: Limits | None) -> StepDraft:
    """Return the draft of a step from its JSON value `spec`.

    If `limits` is None, the parameters are not checked against limits.
    """
    faults: list[Fault] = []
    if name == SOURCE or not NAME.fullmatch(name):
        rule = "use up to 64 letters (A to Z), digits, - and _, start with a letter or a digit, and do not use `source`"
        faults.append(Fault(pointer("steps", name), f"is not a valid name for a step: {rule}"))
    if not isinstance(spec, dict):
        faults.append(Fault(pointer("steps", name), "must be an object with `op` and `input`"))
        return StepDraft(name, faults=tuple(faults))
    operation = _read_operation(name, spec, faults)
    params = _read_params(name, operation, spec, limits, faults) if operation else None
    inputs = _read_inputs(name, spec, faults)
    return StepDraft(name, operation, params, inputs, tuple(faults))


def _read_operation(name: str, spec: dict[str, Any], faults: list[Fault]) -> AnyOperation | None:
    op = spec.get("op")
    operation = OPERATIONS.get(op) if isinstance(op, str) else None
    if operation is None:
        wrong = f"{quote(op)} is not an operation" if "op" in spec else "is missing"
        faults.append(Fault(pointer("steps", name, "op"), f"{wrong}; use one of {', '.join(OPERATIONS)}"))
    return operation


def _read_params(
    name: str, operation: AnyOperation, spec: dict[str, Any], limits: Limits | None, faults: list[Fault],
) -> Params | None:  # fmt: skip
    fields = {field: value for field, value in spec.items() if field not in RESERVED_FIELDS}
    try:
        params: Params = operation.params.model_validate(fields, context=limits)
    except ValidationError as error:
        faults += [
            Fault(pointer("steps", name, *item["loc"]), _params_message(item, operation)) for item in error.errors()
        ]
        return None
    return params


def _params_message(item: Any, operation: AnyOperation) -> str:
    """Return pydantic's message as the end of a sentence that begins with the field's name."""
    if item["type"] == "extra_forbidden":
        known = ", ".join(_parameters(operation.name)) or "none"
        return f"is not a parameter of {operation.name}; this operation has {known}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


@cache
def _parameters(operation: str) -> tuple[str, ...]:
    """Return the names of the parameters that are in the JSON Schema of an operation, and so in the catalog."""
    return tuple(OPERATIONS[operation].params.model_json_schema().get("properties", ()))


def _read_inputs(name: str, spec: dict[str, Any], faults: list[Fault]) -> tuple[str, ...]:
    match spec.get("input"):
        case str() as read:
            return (read,)
        case list() as reads if reads and all(isinstance(read, str) for read in reads):
            return tuple(reads)
    rule = "must be the name of a step or `source`, or a list of such names"
    faults.append(Fault(pointer("steps", name, "input"), rule if "input" in spec else f"is missing; it {rule}"))
    return ()
