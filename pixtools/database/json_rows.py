"""A list of rows as one parameter of a statement.

The text of the statement is the same for any number of rows, so SQLAlchemy and Postgres prepare it only once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, column, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.selectable import TableValuedAlias


def json_rows(alias: str, /, **columns: Any) -> TableValuedAlias:
    """Return the parameter `rows` as a table with the name `alias`.

    The parameter is a list of JSON objects. `columns` gives the keys of these objects, and the type of each column.
    """
    typed = (column(key, kind) for key, kind in columns.items())
    rows = bindparam("rows", type_=JSONB)
    return func.jsonb_to_recordset(rows).table_valued(*typed, name=alias).render_derived(with_types=True)
