"""Specification → plan: the steps that somebody wrote, checked whole, with every mistake named at once."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from dag.plan import NAME, SOURCE, Plan, Source, Step, file_name, order, step_key
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import BadRequest, Fault, ImageTooLarge, InvalidPlan, pointer
from pixtools.imaging.header import Limits, check_size
from pixtools.imaging.picture import Size
from pixtools.operations import OPERATIONS
from pixtools.operations.base.kinds import (
    AnyOperation,
    Composite,
    EncodeParams,
    Inference,
    Inspector,
    Kind,
    Misfit,
    Params,
    PixelParams,
)

_OWN_FIELDS = ("op", "input")
_BUNDLERS = frozenset(name for name, operation in OPERATIONS.items() if operation.max_inputs is None)
_LONGEST_QUOTE = 80
_EXAMPLES = {
    "/steps": 'write for instance {"web": {"op": "webp", "input": "source"}}',
    "/operations": 'write for instance ["webp", "avif"]',
    "/operation_params": 'write for instance {"webp": {"quality": 80}}',
}
_MOST_FAULTS = 100  # more would be no help to anybody, and a megabyte of nonsense would get ten as its answer


def parse(text: str, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256) -> Plan:
    """Return the plan of a `steps` document, or raise InvalidPlan with a fault for each of its mistakes."""
    return build(_load("/steps", text), source, max_steps, limits, weights)


def parse_short(
    operations: str, operation_params: str | None, source: Source, max_steps: int, limits: Limits,
    weights: str = SHIPPED_SHA256,
) -> Plan:  # fmt: skip
    """Return the plan of the short form: each operation once, on the source; a bundle takes what the others make."""
    names = _load("/operations", operations)
    params = _load("/operation_params", operation_params) if operation_params is not None else {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid([Fault("/operations", 'must be a list of operations, such as ["webp", "avif"]')])
    if not isinstance(params, dict):
        raise _invalid([Fault("/operation_params", 'must be an object, such as {"webp": {"quality": 80}}')])
    if odd := [name for name, value in params.items() if not isinstance(value, dict)]:
        wrong = 'must be an object of parameters, such as {"quality": 80}'
        raise _invalid([Fault(pointer("operation_params", name), wrong) for name in odd])
    if len(names) > max_steps:
        raise _invalid([Fault("/operations", f"{len(names)} operations are more than the {max_steps} accepted")])
    faults = [
        Fault(pointer("operations", index), f"{_shown(name)} stands twice; write `steps` to run it in two ways")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    faults += [
        Fault(pointer("operation_params", name), f"is not among the operations: {', '.join(names)}")
        for name in params
        if name not in names
    ]
    faults += [
        Fault(pointer("operation_params", name, field), "is not a parameter")
        for name, fields in params.items()
        for field in _OWN_FIELDS
        if field in fields
    ]
    files = [name for name in names if name not in _BUNDLERS]
    steps = {
        name: params.get(name, {}) | {"op": name, "input": (files or SOURCE) if name in _BUNDLERS else SOURCE}
        for name in names
    }
    try:
        plan = build(steps, source, max_steps, limits, weights)
    except InvalidPlan as error:
        faults += [_in_short_form(fault, names) for fault in error.faults]
    if faults:
        raise _invalid(faults)
    return plan


def build(
    document: object, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256,
) -> Plan:  # fmt: skip
    """Return the plan of a loaded `steps` document; raises InvalidPlan.

    No step may make a picture beyond `limits`, as the source is none. `weights` is the digest of the denoiser's.
    """
    if not isinstance(document, dict):
        raise _invalid([Fault("/steps", "must be an object of named steps")])
    if not document:
        raise _invalid([Fault("/steps", "needs at least one step")])
    if len(document) > max_steps:
        # Nothing else is looked at: what the other checks cost, and say, grows with the square of the steps.
        raise _invalid([Fault("/steps", f"{len(document)} steps are more than the {max_steps} accepted")])
    faults: list[Fault] = []
    drafts = {name: _Draft(name, spec, faults) for name, spec in document.items()}
    drafts.pop(SOURCE, None)  # a fault by now: who reads `source` means the image
    for draft in drafts.values():
        draft.check_inputs(drafts, max_steps, faults)
        draft.check_parts(source, faults)
    faults += [
        Fault(pointer("steps", name), f"differs from {_shown(other)} in case alone; name one of them otherwise")
        for name, other in itertools.combinations(drafts, 2)
        if name.lower() == other.lower()
    ]
    known = {name: tuple(read for read in draft.inputs if read in drafts) for name, draft in drafts.items()}
    ordered, cycles = order(known)
    faults += [
        Fault(pointer("steps", cycle[0], "input"), f"is a cycle: {' → '.join(reversed(cycle))}") for cycle in cycles
    ]
    ready = [drafts[name] for name in ordered]
    sizes = _sizes(ready, source, limits, faults)
    if all(draft.params for draft in drafts.values()):  # else one that could not be read may name it
        asked = {part for draft in drafts.values() for part in draft.parts.values()}
        unused = [name for name in source.parts if name not in asked]
        faults += [Fault(pointer(name), "is a file that no step names; leave it out") for name in unused]
    if faults:
        raise _invalid(faults)
    return _bind(ready, source, sizes, weights)


class _Draft:
    """One step as it was written; what could not be read of it is None or empty, and is a fault by then."""

    def __init__(self, name: str, spec: object, faults: list[Fault]) -> None:
        self.name = name
        self.operation: AnyOperation | None = None
        self.params: Params | None = None
        self.inputs: tuple[str, ...] = ()
        if name == SOURCE or not NAME.fullmatch(name):
            faults.append(
                Fault(
                    pointer("steps", name),
                    "is no name for a step: use up to 64 letters, digits, - and _, and not `source`",
                ),
            )
        if not isinstance(spec, dict):
            faults.append(Fault(pointer("steps", name), "must be an object with `op` and `input`"))
            return
        self._read_operation(spec, faults)
        self._read_input(spec, faults)

    def _read_operation(self, spec: dict[str, Any], faults: list[Fault]) -> None:
        op = spec.get("op")
        self.operation = OPERATIONS.get(op) if isinstance(op, str) else None
        if self.operation is None:
            wrong = "is missing" if "op" not in spec else f"{_shown(op)} is no operation"
            faults.append(Fault(pointer("steps", self.name, "op"), f"{wrong}; use one of {', '.join(OPERATIONS)}"))
            return
        try:
            self.params = self.operation.params.model_validate(
                {field: value for field, value in spec.items() if field not in _OWN_FIELDS},
            )
        except ValidationError as error:
            faults += [
                Fault(pointer("steps", self.name, *item["loc"]), _remedy(item, self.operation))
                for item in error.errors()
            ]

    def _read_input(self, spec: dict[str, Any], faults: list[Fault]) -> None:
        given = spec.get("input")
        match given:
            case str():
                self.inputs = (given,)
            case list() if given and all(isinstance(name, str) for name in given):
                self.inputs = tuple(given)
            case _:
                wrong = "must be the name of a step or `source`, or a list of such names"
                faults.append(
                    Fault(
                        pointer("steps", self.name, "input"),
                        wrong if "input" in spec else f"is missing; it {wrong}",
                    ),
                )

    def check_inputs(self, drafts: dict[str, _Draft], max_steps: int, faults: list[Fault]) -> None:
        here = pointer("steps", self.name, "input")
        if len(self.inputs) > max_steps:
            faults.append(Fault(here, f"{len(self.inputs)} inputs are more than the {max_steps} accepted"))
            return
        for index, name in enumerate(self.inputs):
            at = here if len(self.inputs) == 1 else f"{here}/{index}"
            if name in self.inputs[:index]:
                faults.append(Fault(at, f"{_shown(name)} stands twice"))
            elif name != SOURCE and name not in drafts:
                known = [SOURCE, *(other for other in drafts if other != self.name and NAME.fullmatch(other))]
                faults.append(Fault(at, f"there is no step {_shown(name)}; use one of {', '.join(known)}"))
            elif self.operation and not self._fits(name, drafts):
                faults.append(Fault(at, self._misfit(name, drafts)))
        most = self.operation.max_inputs if self.operation else None
        if most is not None and len(self.inputs) > most:
            faults.append(Fault(here, f"{len(self.inputs)} inputs are too many; {self.operation_name} reads {most}"))

    def check_parts(self, source: Source, faults: list[Fault]) -> None:
        missing = [(field, part) for field, part in self.parts.items() if part not in source.parts]
        faults += [
            Fault(
                pointer("steps", self.name, field),
                f"there is no part {_shown(part)} in the request; send the file under this name",
            )
            for field, part in missing
        ]

    @property
    def parts(self) -> Mapping[str, str]:
        """The further files of the request that its parameters name, by the parameter."""
        if not isinstance(self.operation, Composite) or self.params is None:
            return {}
        return self.operation.parts(self.params)

    @property
    def operation_name(self) -> str:
        return self.operation.name if self.operation else "?"

    def _fits(self, name: str, drafts: dict[str, _Draft]) -> bool:
        made_by = drafts[name].operation if name in drafts else None
        if self.operation is None or made_by is None:
            return True  # the source is pixels and a file; what is unknown is a fault already
        if self.operation.reads is Kind.PIXELS:
            return made_by.makes is Kind.PIXELS
        if isinstance(self.operation, Inspector):
            return made_by.makes is Kind.FILE and made_by.media_type.startswith("image/")
        # A bundle takes anything: a step of pixels leaves its lossless file for it.
        return made_by.makes is Kind.FILE or self.operation.max_inputs is None

    def _misfit(self, name: str, drafts: dict[str, _Draft]) -> str:
        makes = drafts[name].operation_name
        if self.operation and self.operation.reads is Kind.PIXELS:
            return (
                f"{_shown(name)} makes a finished file ({makes}) and {self.operation_name} needs pixels; "
                "read the source instead, or a step that makes pixels"
            )
        return f"{_shown(name)} ({makes}) makes no image file and {self.operation_name} needs one; encode it first"


def _sizes(drafts: list[_Draft], source: Source, limits: Limits, faults: list[Fault]) -> dict[str, Size]:
    """Return what size of picture each step makes or encodes, as far as its input has one.

    One whose parameters do not suit that is a fault, and has none.
    """
    sizes = {SOURCE: source.size}
    for draft in drafts:
        params, read = draft.params, next(iter(draft.inputs), None)
        if not isinstance(params, EncodeParams | PixelParams) or read not in sizes:
            continue
        try:
            size = params.size(sizes[read])
            frames = params.frame_count(source.frames) if isinstance(params, EncodeParams) else source.frames
            check_size(size, frames, limits)
        except Misfit as misfit:
            faults.append(Fault(pointer("steps", draft.name, misfit.field), str(misfit)))
        except ImageTooLarge as error:
            faults.append(Fault(pointer("steps", draft.name), f"would make too large a picture: {error.detail}"))
        else:
            sizes[draft.name] = size
    return sizes


def _bind(drafts: list[_Draft], source: Source, sizes: dict[str, Size], weights: str) -> Plan:
    """Return the plan of drafts without faults, in running order."""
    bundled = {
        name for draft in drafts if draft.operation and draft.operation.max_inputs is None for name in draft.inputs
    }
    read = {name for draft in drafts for name in draft.inputs}
    steps: dict[str, Step] = {}
    keys = {SOURCE: source.sha256}
    names = {SOURCE: source.name}
    for draft in drafts:
        operation, params = draft.operation, draft.params
        assert operation is not None and params is not None  # noqa: S101, PT018 (a fault otherwise)
        entries = [names[name] for name in draft.inputs] if operation.max_inputs is None else []
        others = [source.parts[name].sha256 for name in draft.parts.values()]
        others += [weights] if isinstance(operation, Inference) else []
        keys[draft.name] = step_key(operation, params, [keys[name] for name in draft.inputs], entries, others)
        names[draft.name] = file_name(source.name, draft.name, operation.extension)
        leaves_file = (
            operation.makes is Kind.FILE
            or isinstance(operation, Inference)
            or draft.name not in read
            or draft.name in bundled
            or bool(getattr(params, "keep", False))
        )
        steps[draft.name] = Step(
            draft.name, operation, params, draft.inputs, leaves_file, names[draft.name], keys[draft.name],
            sizes[draft.inputs[0]] if draft.name in sizes else None, sizes.get(draft.name),
        )  # fmt: skip
    return Plan(source, tuple(steps.values()))


def _load(at: str, text: str) -> object:
    """Return the JSON value of `text`; a name that stands twice in an object would lose a step, so it is refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        (name, count), *_ = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
        if count > 1:
            raise _invalid([Fault(at, f"the name {_shown(name)} stands twice in one object")])
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{at[1:]} is not JSON.", (Fault(at, f"is not JSON ({error}); {_EXAMPLES[at]}"),)) from error
    return value


def _shown(name: object) -> str:
    """Quote what a client wrote, cut to a length that a message can hold."""
    text = repr(name)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…"


def _remedy(item: Any, operation: AnyOperation) -> str:
    if item["type"] == "extra_forbidden":
        return f"is no parameter of {operation.name}; it has {', '.join(operation.params.model_fields) or 'none'}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _in_short_form(fault: Fault, names: list[str]) -> Fault:
    """Point into `operations` or `operation_params` instead of the steps that were made from them."""
    match fault.pointer.split("/")[1:]:
        case ["steps", name, "op" | "input"] | ["steps", name]:
            return Fault(pointer("operations", names.index(name)) if name in names else "/operations", fault.detail)
        case ["steps", name, *rest]:
            return Fault("/".join(["/operation_params", name, *rest]), fault.detail)
        case ["steps"]:
            return Fault("/operations", fault.detail)
        case _:
            return fault  # of a further file


def _invalid(faults: list[Fault]) -> InvalidPlan:
    count = f"{len(faults)} mistake{'s' if len(faults) > 1 else ''} in the steps"
    more = f", the first {_MOST_FAULTS} of them here" if len(faults) > _MOST_FAULTS else ""
    return InvalidPlan(f"{count}{more}.", tuple(faults[:_MOST_FAULTS]))
