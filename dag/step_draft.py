"""Reads one step of a `steps` document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from dag.faults import Faults, listed, quote
from dag.plan import MAX_NAME_LENGTH, NAME, SOURCE
from pixtools.errors import MAX_FAULTS, pointer
from pixtools.limits import Limits
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import AnyOperation, Composite
from pixtools.operations.base.params import Params

RESERVED_FIELDS = ("op", "input")
"""The fields of a step that are not parameters."""

_MAX_PARAMETERS = 64  # of one step; no operation has more than 20


@dataclass(frozen=True)
class StepDraft:
    """One step as the client wrote it. If a value cannot be read, it is None or empty, and there is a fault for it."""

    name: str
    operation: AnyOperation | None = None
    params: Params | None = None
    inputs: tuple[str, ...] = ()

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


def read_step(name: str, spec: object, max_inputs: int, limits: Limits | None, faults: Faults) -> StepDraft:
    """Return the draft of a step from its JSON value `spec`, and add its mistakes to `faults`.

    If `limits` is None, the parameters are not checked against limits. Raises InvalidPlan if there are too many faults.
    """
    here = pointer("steps", name)
    if name == SOURCE or not NAME.fullmatch(name):
        rule = "use up to 64 letters (A to Z), digits, - and _, start with a letter or a digit, and do not use `source`"
        faults.add(here, f"is not a valid name for a step: {rule}")
    if len(name) > MAX_NAME_LENGTH:
        return StepDraft(name)  # further faults would have the same pointer, because the name is cut in it
    if not isinstance(spec, dict):
        faults.add(here, "must be an object with `op` and `input`")
        return StepDraft(name)
    operation = _read_operation(here, spec, faults)
    params = _read_params(here, operation, spec, limits, faults) if operation else None
    return StepDraft(name, operation, params, _read_inputs(here, spec, max_inputs, faults))


def _read_operation(here: str, spec: dict[str, Any], faults: Faults) -> AnyOperation | None:
    op = spec.get("op")
    operation = OPERATIONS.get(op) if isinstance(op, str) else None
    if operation is None:
        wrong = f"{quote(op)} is not an operation" if "op" in spec else "is missing"
        faults.add(f"{here}/op", f"{wrong}; use one of {listed(OPERATIONS)}")
    return operation


def _read_params(
    here: str, operation: AnyOperation, spec: dict[str, Any], limits: Limits | None, faults: Faults,
) -> Params | None:  # fmt: skip
    fields = {field: value for field, value in spec.items() if field not in RESERVED_FIELDS}
    if len(fields) > _MAX_PARAMETERS:
        faults.add(here, f"{len(fields)} parameters are too many; at most {_MAX_PARAMETERS} are accepted")
        return None
    try:
        params: Params = operation.params.model_validate(fields, context=limits)
    except ValidationError as error:
        # Objects inside parameters can have thousands of mistakes. Pydantic builds the messages of all or of none.
        if error.error_count() > MAX_FAULTS:
            faults.add(here, f"has {error.error_count()} mistakes in its parameters; {_known(operation)}")
            return None
        for item in error.errors(include_url=False, include_context=False, include_input=False):
            faults.add(here + pointer(*item["loc"]), _params_message(item, operation))
        return None
    return params


def _params_message(item: Any, operation: AnyOperation) -> str:
    """Return pydantic's message as the end of a sentence that begins with the field's name."""
    if item["type"] == "extra_forbidden":
        return f"is not a parameter of {operation.name}; {_known(operation)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _known(operation: AnyOperation) -> str:
    return f"this operation has {listed(_parameters(operation.name)) or 'none'}"


@cache
def _parameters(operation: str) -> tuple[str, ...]:
    """Return the names of the parameters that are in the JSON Schema of an operation, and so in the catalog."""
    return tuple(OPERATIONS[operation].params.model_json_schema().get("properties", ()))


def _read_inputs(here: str, spec: dict[str, Any], max_inputs: int, faults: Faults) -> tuple[str, ...]:
    match spec.get("input"):
        case str() as read:
            return (read,)
        case list() as reads if len(reads) > max_inputs:
            faults.add(f"{here}/input", f"{len(reads)} inputs are too many; at most {max_inputs} are accepted")
            return ()
        case list() as reads if reads and all(isinstance(read, str) for read in reads):
            return tuple(reads)
    rule = "must be the name of a step or `source`, or a list of such names"
    faults.add(f"{here}/input", rule if "input" in spec else f"is missing; it {rule}")
    return ()
