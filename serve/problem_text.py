"""Answers of the service as a line of text for the commands."""

from __future__ import annotations

import httpx


def problem_text(answer: httpx.Response) -> str:
    """Return the detail of a problem, and each fault whose text is not in the detail.

    For any other answer, return a sentence with its status.
    """
    try:
        problem = answer.json()
        detail = problem["detail"]
        faults = [f"{each['pointer']}: {each['detail']}" for each in problem["errors"] if each["detail"] not in detail]
        return " ".join([detail, "; ".join(faults)]).strip()
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code}."
