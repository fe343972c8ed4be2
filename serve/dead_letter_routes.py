"""The HTTP routes that list, redrive and discard dead letters."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from pixtools.jobs.dead_letters import DeadLetterSelection
from pixtools.states import DeadLetterState
from serve.answers import json_response
from serve.dead_letters import DeadLetterList, DeadLetters, Name, NumberAnswer, SelectionForm
from serve.owner import PUBLIC_OWNER
from serve.problems import responses


@dataclass(frozen=True)
class DeadLetterRoutes:
    """The routes below `/api/dead-letters`. Each route is one method. The OpenAPI document contains its docstring."""

    letters: DeadLetters

    def router(self) -> APIRouter:
        """Return the table of these routes."""
        router = APIRouter(prefix="/api/dead-letters", tags=["dead letters"])
        router.add_api_route(
            "",
            self.list_dead_letters,
            methods=["GET"],
            response_model=DeadLetterList,
            responses=responses(422, 503),
            summary="List dead letters",
        )
        router.add_api_route(
            "/redrive",
            self.redrive_selected,
            methods=["POST"],
            status_code=202,
            responses=responses(422, 503),
            summary="Redrive all selected dead letters, at a limited rate",
        )
        router.add_api_route(
            "/discard",
            self.discard_selected,
            methods=["POST"],
            responses=responses(422, 503),
            summary="Discard all selected dead letters",
        )
        router.add_api_route(
            "/{letter_id}/redrive",
            self.redrive,
            methods=["POST"],
            status_code=202,
            responses=responses(404, 409, 422, 503),
            summary="Redrive a dead letter",
        )
        router.add_api_route(
            "/{letter_id}",
            self.discard,
            methods=["DELETE"],
            status_code=204,
            responses=responses(404, 409, 422, 503),
            summary="Discard a dead letter",
        )
        return router

    def list_dead_letters(
        self,
        state: Annotated[DeadLetterState | None, Query(description="default: waiting and redriving")] = None,
        job: uuid.UUID | None = None,
        op: Name | None = None,
        code: Annotated[Name | None, Query(description="the code of the error, such as `corrupt_image`")] = None,
        cursor: uuid.UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """The newest dead letter comes first."""
        selection = DeadLetterSelection(job=job, op=op, code=code)
        return json_response(self.letters.page(PUBLIC_OWNER, selection, state=state, before=cursor, limit=limit))

    async def redrive_selected(self, form: SelectionForm) -> NumberAnswer:
        """The answer is the number of selected dead letters that were waiting. Only they are redriven."""
        return await self.letters.redrive(PUBLIC_OWNER, form.selection())

    async def discard_selected(self, form: SelectionForm) -> NumberAnswer:
        """The answer is the number of selected dead letters that were waiting or redriving. Only they are discarded."""
        return await self.letters.discard(PUBLIC_OWNER, form.selection())

    async def redrive(self, letter_id: uuid.UUID) -> NumberAnswer:
        """409 means that the dead letter was redriven or discarded before."""
        return await self.letters.redrive(PUBLIC_OWNER, DeadLetterSelection(id=letter_id))

    async def discard(self, letter_id: uuid.UUID) -> Response:
        """409 means that the dead letter was redriven or discarded before."""
        await self.letters.discard(PUBLIC_OWNER, DeadLetterSelection(id=letter_id))
        return Response(status_code=204)
