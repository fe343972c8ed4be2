"""Reads and checks a `steps` document, and turns it into a plan. One error lists all mistakes of a document."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

from dag.faults import Faults, listed, quote
from dag.json_fields import load
from dag.plan import NAME, SOURCE, Plan, PlannedStep, Source, file_name, running_order, step_key
from dag.step_draft import StepDraft, read_step
from pixtools.denoising.weights import SHIPPED_SHA256
from pixtools.errors import ImageTooLarge, pointer
from pixtools.imaging.header import check_size
from pixtools.imaging.picture import Size
from pixtools.limits import Limits
from pixtools.operations.base.encode_params import EncodeParams
from pixtools.operations.base.kinds import AnyOperation, DataKind, Inference, Inspector
from pixtools.operations.base.params import PixelParams, UnsuitableParameter


def parse(text: str, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256) -> Plan:
    """Return the plan of a `steps` document in JSON.

    Raises InvalidRequest if `text` is too large, BadRequest if it is not JSON, and InvalidPlan with a fault for each
    mistake.
    """
    return build(load("steps", text), source, max_steps, limits, weights)


def build(
    document: object, source: Source, max_steps: int, limits: Limits, weights: str = SHIPPED_SHA256,
    *, is_stored: bool = False, faults: Faults | None = None,
) -> Plan:  # fmt: skip
    """Return the plan of a `steps` document that was read from JSON.

    No step may make a picture that exceeds `limits`. `weights` is the SHA-256 of the denoiser's weights for photos. If
    `is_stored` is true, the parameters are not checked against `limits`. They were checked at submission, with the
    limits of that time. `faults` may hold mistakes that were found before.

    Raises InvalidPlan with a fault for each mistake, up to 100.
    """
    faults = faults or Faults()
    specs = _named_specs(document, max_steps, faults)
    read = [read_step(name, spec, max_steps, None if is_stored else limits, faults) for name, spec in specs.items()]
    # A step with the name `source` has a fault from `read_step`. Leave it out here, because `source` as an input means
    # the source image.
    drafts = {draft.name: draft for draft in read if draft.name != SOURCE}
    ordered, cycles = running_order(
        {name: tuple(other for other in draft.inputs if other in drafts) for name, draft in drafts.items()}
    )
    for draft in drafts.values():
        _check_inputs(draft, drafts, faults)
        _check_parts(draft, source, faults)
    _check_similar_names(drafts, faults)
    for cycle in cycles:
        faults.add(pointer("steps", cycle[0], "input"), f"is a cycle: {listed(cycle[::-1], ' → ')}")
    ready = [drafts[name] for name in ordered]
    sizes = _sizes(ready, source, limits, faults)
    _check_unused_parts(drafts.values(), source, faults)
    faults.check()
    return _plan_of(ready, source, sizes, weights)


def _named_specs(document: object, max_steps: int, faults: Faults) -> dict[str, object]:
    """Return the steps of a document by name.

    Raises InvalidPlan if the document is not an object, or has no steps or too many steps. These checks come first,
    because all later checks have a cost for each step.
    """
    if not isinstance(document, dict):
        faults.add("/steps", "must be an object of named steps")
    elif not document:
        faults.add("/steps", "needs at least one step")
    elif len(document) > max_steps:
        faults.add("/steps", f"{len(document)} steps are too many; at most {max_steps} are accepted")
    else:
        return document
    raise faults.error()


def _check_parts(draft: StepDraft, source: Source, faults: Faults) -> None:
    """Add a fault for each part that a step uses and the request lacks."""
    for field, part in draft.parts.items():
        if part not in source.parts:
            missing = f"there is no part {quote(part)} in the request; send the file under this name"
            faults.add(pointer("steps", draft.name, field), missing)


def _check_inputs(draft: StepDraft, drafts: Mapping[str, StepDraft], faults: Faults) -> None:
    """Add a fault for each input that a step cannot read."""
    here = pointer("steps", draft.name, "input")
    inputs = draft.inputs
    seen: set[str] = set()
    for index, name in enumerate(inputs):
        wrong = f"{quote(name)} is given twice" if name in seen else _input_mistake(draft, name, drafts)
        seen.add(name)
        if wrong:
            faults.add(here if len(inputs) == 1 else f"{here}/{index}", wrong)
    operation = draft.operation
    if operation and operation.max_inputs is not None and len(inputs) > operation.max_inputs:
        faults.add(here, f"{len(inputs)} inputs are too many; {operation.name} reads {operation.max_inputs}")


def _input_mistake(draft: StepDraft, name: str, drafts: Mapping[str, StepDraft]) -> str | None:
    """Return what is wrong with the input `name` of a step, or None."""
    if name == SOURCE:
        return None  # the source is available as pixels and as a file
    if name not in drafts:
        known = [SOURCE, *(other for other in drafts if other != draft.name and NAME.fullmatch(other))]
        return f"there is no step {quote(name)}; use one of {listed(known)}"
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


def _check_similar_names(names: Collection[str], faults: Faults) -> None:
    """Add a fault for each name that differs from a later name only in case, because some file systems ignore case."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.lower(), []).append(name)
    for same in alike.values():
        for name, other in pairwise(same):
            faults.add(pointer("steps", name), f"differs from {quote(other)} only in case; rename one of them")


def _check_unused_parts(drafts: Collection[StepDraft], source: Source, faults: Faults) -> None:
    """Add a fault for each part that no step uses."""
    if any(draft.params is None for draft in drafts):
        return  # a step with unreadable parameters may use the part
    used = {part for draft in drafts for part in draft.parts.values()}
    for name in source.parts:
        if name not in used:
            faults.add(pointer(name), "is a file that no step uses; leave it out")


def _sizes(drafts: list[StepDraft], source: Source, limits: Limits, faults: Faults) -> dict[str, Size]:
    """Return the size of the picture that each step makes or encodes, and add a fault for each size that is not valid.

    `drafts` are in running order. A step gets neither a size nor a fault if it handles no pixels, or if its input has
    no size.
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
        except UnsuitableParameter as error:
            faults.add(pointer("steps", draft.name, error.field), str(error))
        except ImageTooLarge as error:
            faults.add(pointer("steps", draft.name), f"its picture would be too large: {error.detail}")
        else:
            sizes[draft.name] = size
    return sizes


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
    operation, params = draft.complete()
    return [*parts, operation.weights(params, weights)] if isinstance(operation, Inference) else parts


def _leaves_file(draft: StepDraft, *, read: bool, bundled: bool) -> bool:
    """Return whether a step stores its result as a file. Pixels are stored only if a file is needed."""
    operation, params = draft.complete()
    if operation.makes is DataKind.FILE or isinstance(operation, Inference):
        return True
    return not read or bundled or bool(getattr(params, "keep", False))
