"""Upgrades a database to the schema of this version, with Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def upgrade(database_url: str) -> None:
    """Apply the migrations that the database lacks. Several processes may call this function at the same time."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")
