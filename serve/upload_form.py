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
            "JSON: named steps, each with `op`, `input` and the operation's parameters. A step that takes a further "
            "image names the part of this form that holds it."
        ),
        "example": '{"web": {"op": "webp", "input": "source", "resize": {"width": 1280}}}',
    },
    "operations": {
        "type": "string",
        "description": (
            'JSON, instead of `steps`: operations to run once each on the image, such as `["webp", "avif"]`. '
            "Empty means not sent."
        ),
        "default": "",
    },
    "operation_params": {
        "type": "string",
        "description": (
            'JSON, beside `operations`: parameters by operation, such as `{"webp": {"quality": 80}}`. '
            "Empty means not sent."
        ),
        "default": "",
    },
}

UPLOAD_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": _PROPERTIES,
                    "additionalProperties": {
                        "type": "string",
                        "format": "binary",
                        "description": "a further image, such as `logo`, for the steps whose parameters name it",
                    },
                },
            },
        },
    },
}
