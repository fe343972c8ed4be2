"""Reads and checks a `steps` document, and turns it into a plan. One error lists all mistakes of a document."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

from dag.faults import invalid_plan, quote
from dag.json_fields import load
from dag.plan import NAME, SOURCE, Plan, PlannedStep, Source, file_name, running_order, step_key
from dag.step_draft import StepDraft, read_step
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import Fault, ImageTooLarge, pointer
from pixtools.imaging.header import check_size
from pixtools.imaging.picture import Size
from pixtools.limits import Limits
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import AnyOperation, DataKind, Inference, Inspector
from pixtools.operations.base.params import PixelParams, UnsuitableParameter


def parse(text: str, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256) -> Plan:
    """Return the plan of a `steps` document in JSON.

    Raises BadRequest if `text` is not JSON, and InvalidPlan with a fault for each mistake.
    """
    return build(load("steps", text), source, max_steps, limits, weights)


def build(
    document: object, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256,
    *, is_stored: bool = False,
) -> Plan:  # fmt: skip
    """Return the plan of a `steps` document that was read from JSON.

    No step may make a picture that exceeds `limits`. `weights` is the SHA-256 of the denoiser's weights. If `is_stored`
    is true, the parameters are not checked against `limits`. They were checked at submission, with the limits of that
    time.

    Raises InvalidPlan with a fault for each mistake.
    """
    specs = _named_specs(document, max_steps)
    read = [read_step(name, spec, None if is_stored else limits) for name, spec in specs.items()]
    # A step with the name `source` has a fault from `read_step`. Leave it out here, because `source` as an input means
    # the source image.
    drafts = {draft.name: draft for draft in read if draft.name != SOURCE}
    ordered, cycles = running_order(
        {name: tuple(other for other in draft.inputs if other in drafts) for name, draft in drafts.items()}
    )
    ready = [drafts[name] for name in ordered]
    sizes, size_faults = _sizes(ready, source, limits)
    faults = [
        *(fault for draft in read for fault in draft.faults),
        *(fault for draft in drafts.values() for fault in _reference_faults(draft, drafts, source, max_steps)),
        *_similar_name_faults(drafts),
        *_cycle_faults(cycles),
        *size_faults,
        *_unused_part_faults(drafts.values(), source),
    ]
    if faults:
        raise invalid_plan(faults)
    return _plan_of(ready, source, sizes, weights)


def _named_specs(document: object, max_steps: int) -> dict[str, object]:
    """Return the steps of a document by name.

    Raises InvalidPlan if the document is not an object, or has no steps or too many steps. These checks come first,
    because the duration of all later checks and the length of their answer grow with the square of the number of steps.
    """
    if not isinstance(document, dict):
        raise invalid_plan([Fault("/steps", "must be an object of named steps")])
    if not document:
        raise invalid_plan([Fault("/steps", "needs at least one step")])
    if len(document) > max_steps:
        raise invalid_plan([Fault("/steps", f"{len(document)} steps are too many; at most {max_steps} are accepted")])
    return document


def _reference_faults(
    draft: StepDraft, drafts: Mapping[str, StepDraft], source: Source, max_steps: int,
) -> Iterator[Fault]:  # fmt: skip
    """Yield a fault for each input and each part that a step cannot read."""
    yield from _input_faults(draft, drafts, max_steps)
    for field, part in draft.parts.items():
        if part not in source.parts:
            missing = f"there is no part {quote(part)} in the request; send the file under this name"
            yield Fault(pointer("steps", draft.name, field), missing)


def _input_faults(draft: StepDraft, drafts: Mapping[str, StepDraft], max_steps: int) -> Iterator[Fault]:
    here = pointer("steps", draft.name, "input")
    inputs = draft.inputs
    if len(inputs) > max_steps:
        yield Fault(here, f"{len(inputs)} inputs are too many; at most {max_steps} are accepted")
        return
    for index, name in enumerate(inputs):
        wrong = f"{quote(name)} is given twice" if name in inputs[:index] else _input_mistake(draft, name, drafts)
        if wrong:
            yield Fault(here if len(inputs) == 1 else f"{here}/{index}", wrong)
    operation = draft.operation
    if operation and operation.max_inputs is not None and len(inputs) > operation.max_inputs:
        yield Fault(here, f"{len(inputs)} inputs are too many; {operation.name} reads {operation.max_inputs}")


def _input_mistake(draft: StepDraft, name: str, drafts: Mapping[str, StepDraft]) -> str | None:
    """Return what is wrong with the input `name` of a step, or None."""
    if name == SOURCE:
        return None  # the source is available as pixels and as a file
    if name not in drafts:
        known = [SOURCE, *(other for other in drafts if other != draft.name and NAME.fullmatch(other))]
        return f"there is no step {quote(name)}; use one of {', '.join(known)}"
    made_by = drafts[name].operation
    if draft.operation is None or made_by is None or _can_read(draft.operation, made_by):
        return None
    if draft.operation.reads is DataKind.PIXELS:
        return (
            f"{quote(name)} makes a finished file ({made_by.name}), but {draft.operation.name} needs pixels; "
            "read the source instead, or a step that makes pixels"
        )
    return (
        f"{quote(name)} ({made_by.name}) makes no image file, but {draft.operation.name} needs one; "
        "read a step that makes one"
    )


def _can_read(operation: AnyOperation, made_by: AnyOperation) -> bool:
    if operation.reads is DataKind.PIXELS:
        return made_by.makes is DataKind.PIXELS
    if isinstance(operation, Inspector):
        return made_by.makes is DataKind.FILE and made_by.media_type.startswith("image/")
    return True  # a bundle reads files, and every step that a bundle reads leaves a file


def _similar_name_faults(names: Collection[str]) -> Iterator[Fault]:
    """Yield a fault for each pair of names that differ only in case, because some file systems ignore case."""
    for name, other in itertools.combinations(names, 2):
        if name.lower() == other.lower():
            yield Fault(pointer("steps", name), f"differs from {quote(other)} only in case; rename one of them")


def _cycle_faults(cycles: list[list[str]]) -> Iterator[Fault]:
    for cycle in cycles:
        yield Fault(pointer("steps", cycle[0], "input"), f"is a cycle: {' → '.join(reversed(cycle))}")


def _unused_part_faults(drafts: Collection[StepDraft], source: Source) -> Iterator[Fault]:
    """Yield a fault for each part that no step uses."""
    if any(draft.params is None for draft in drafts):
        return  # a step with unreadable parameters may use the part
    used = {part for draft in drafts for part in draft.parts.values()}
    for name in source.parts:
        if name not in used:
            yield Fault(pointer(name), "is a file that no step uses; leave it out")


def _sizes(drafts: list[StepDraft], source: Source, limits: Limits) -> tuple[dict[str, Size], list[Fault]]:
    """Return the size of the picture that each step makes or encodes, and a fault for each size that is not valid.

    `drafts` are in running order. A step gets neither a size nor a fault if it handles no pixels, or if its input has
    no size.
    """
    sizes = {SOURCE: source.size}
    faults: list[Fault] = []
    for draft in drafts:
        params, read = draft.params, next(iter(draft.inputs), None)
        if not isinstance(params, EncodeParams | PixelParams) or read not in sizes:
            continue
        try:
            size = params.size(sizes[read])
            frames = params.frame_count(source.frames) if isinstance(params, EncodeParams) else source.frames
            check_size(size, frames, limits)
        except UnsuitableParameter as error:
            faults.append(Fault(pointer("steps", draft.name, error.field), str(error)))
        except ImageTooLarge as error:
            faults.append(Fault(pointer("steps", draft.name), f"its picture would be too large: {error.detail}"))
        else:
            sizes[draft.name] = size
    return sizes, faults


def _plan_of(drafts: list[StepDraft], source: Source, sizes: Mapping[str, Size], weights: str) -> Plan:
    """Return the plan of `drafts`, which are in running order and have no faults."""
    read = {name for draft in drafts for name in draft.inputs}
    bundled = {name for draft in drafts if draft.bundles for name in draft.inputs}
    keys, file_names = {SOURCE: source.sha256}, {SOURCE: source.name}
    steps = []
    for draft in drafts:
        operation, params = draft.complete()
        entries = [file_names[name] for name in draft.inputs] if draft.bundles else []
        others = _other_digests(draft, source, weights)
        key = step_key(operation, params, [keys[name] for name in draft.inputs], entries, others)
        download_name = file_name(source.name, draft.name, operation.extension)
        keys[draft.name], file_names[draft.name] = key, download_name
        steps.append(
            PlannedStep(
                name=draft.name,
                operation=operation,
                params=params,
                inputs=draft.inputs,
                leaves_file=_leaves_file(draft, read=draft.name in read, bundled=draft.name in bundled),
                file_name=download_name,
                key=key,
                size_in=sizes[draft.inputs[0]] if draft.name in sizes else None,
                size=sizes.get(draft.name),
            )
        )
    return Plan(source, tuple(steps))


def _other_digests(draft: StepDraft, source: Source, weights: str) -> list[str]:
    """Return the digests of the parts and weights that decide the result of a step."""
    parts = [source.parts[name].sha256 for name in draft.parts.values()]
    return [*parts, weights] if isinstance(draft.operation, Inference) else parts


def _leaves_file(draft: StepDraft, *, read: bool, bundled: bool) -> bool:
    """Return whether a step stores its result as a file. Pixels are stored only if a file is needed."""
    operation, params = draft.complete()
    if operation.makes is DataKind.FILE or isinstance(operation, Inference):
        return True
    return not read or bundled or bool(getattr(params, "keep", False))
