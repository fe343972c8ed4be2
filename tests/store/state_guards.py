"""Database triggers that refuse every move (a change of a state) that states.py does not allow."""

from __future__ import annotations

import psycopg

from pixtools.states import DEAD_LETTER_MOVES, DELIVERY_MOVES, JOB_MOVES, STEP_MOVES, StepState

# One update may make two moves: a waiting step began and succeeded.
_STEP_MOVES = STEP_MOVES | {StepState.WAITING: STEP_MOVES[StepState.WAITING] | {StepState.SUCCEEDED}}

# A trigger with UPDATE OF also runs for an update that sets the column to its old value. So the trigger also refuses to
# set the state of a waiting step to waiting.
_MOVES = {"job": JOB_MOVES, "step": _STEP_MOVES, "dead_letter": DEAD_LETTER_MOVES, "delivery": DELIVERY_MOVES}

_GUARD = """
CREATE FUNCTION guard_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NOT OLD.state || ' ' || NEW.state = ANY (ARRAY[{moves}]) THEN
        RAISE EXCEPTION '{table} moved from % to %', OLD.state, NEW.state;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE OF state ON {table} FOR EACH ROW EXECUTE FUNCTION guard_{table}();
"""


def install(database: psycopg.Connection) -> None:
    """Create the triggers for jobs, steps, dead letters and deliveries."""
    for table, moves in _MOVES.items():
        allowed = ", ".join(f"'{state} {after}'" for state in moves for after in moves[state])
        database.execute(_GUARD.format(table=table, moves=allowed))


def remove(database: psycopg.Connection) -> None:
    """Drop the triggers."""
    for table in _MOVES:
        database.execute(f"DROP FUNCTION guard_{table} CASCADE")
