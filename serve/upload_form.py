"""The OpenAPI description of the multipart form that submits a job.

Swagger UI fills its form from the examples and defaults. `steps` has an example. `operations` is empty by default,
because the service refuses a request with both `steps` and `operations`.
"""

from __future__ import annotations

from typing import Any

_PROPERTIES: dict[str, dict[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "the image"},
    "steps": {
        "type": "string",
        "description": (
            "JSON: the steps by name, each with `op`, `input` and the parameters of the operation. If a step needs a "
            "further image, the value of a parameter is the name of the form field with this image."
        ),
        "example": '{"web": {"op": "webp", "input": "source", "resize": {"width": 1280}}}',
    },
    "operations": {
        "type": "string",
        "description": (
            'JSON, instead of `steps`: a list of operations, such as `["webp", "avif"]`. Each becomes one step. '
            "An empty value counts as not sent."
        ),
        "default": "",
    },
    "operation_params": {
        "type": "string",
        "description": (
            'JSON, only with `operations`: the parameters of each operation, such as `{"webp": {"quality": 80}}`. '
            "An empty value counts as not sent."
        ),
        "default": "",
    },
    "webhook_url": {
        "type": "string",
        "description": (
            "An http or https URL that gets an event when the job ends. Registered endpoints get their events in "
            "addition. An empty value counts as not sent."
        ),
        "default": "",
    },
}


def _form(properties: dict[str, dict[str, Any]], required: list[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": {
            "type": "string",
            "format": "binary",
            "description": "a further image, for steps that use the name of this field, such as `logo`",
        },
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


UPLOAD_FORM = _form(_PROPERTIES, ["file"])

PROCESS_UPLOAD_FORM = _form(
    {
        "file": _PROPERTIES["file"],
        "operations": {
            "type": "string",
            "description": "JSON: a list of operations in upper or lower case. A repeated operation runs once.",
            "example": '["WEBP", "DENOISE", "METADATA"]',
        },
        "operation_params": {
            "type": "string",
            "description": (
                'JSON: parameters by operation, such as `{"webp": {"quality": "80", "resize": {"width": 800}}}`. '
                "Numbers may be texts. Unknown parameters and other operations are ignored. An empty value counts as "
                "not sent."
            ),
            "default": "",
        },
        "webhook_url": {
            "type": "string",
            "description": (
                "An http or https URL that gets `job_id`, `status` and `result_urls` when the job ends. An empty value "
                "counts as not sent."
            ),
            "default": "",
        },
    },
    ["file", "operations"],
)
