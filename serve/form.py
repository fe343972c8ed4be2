"""The base class of JSON bodies that clients send."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator


class Form(BaseModel):
    """A JSON object with known fields only."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, form: object) -> object:
        # Without this check, pydantic would make an error for each of thousands of unknown fields.
        if isinstance(form, dict) and len(form) > len(cls.model_fields):
            raise ValueError(f"has {len(form)} fields; the only fields are {', '.join(cls.model_fields)}")
        return form
