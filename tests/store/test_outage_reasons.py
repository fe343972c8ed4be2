"""The log gives the reason of an outage. These tests use errors of the real database driver."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from pixtools.database.connection import Database
from pixtools.errors import DatabaseDown
from pixtools.logs import reason
from pixtools.settings import Settings


def reason_of_outage(settings: Settings) -> str:
    database = Database(settings)
    try:
        with pytest.raises(DatabaseDown) as raised:
            database.ping()
    finally:
        database.close()
    return reason(raised.value)


def test_a_wrong_password_is_named_as_the_reason(settings):
    url = settings.database_url.get_secret_value()
    password = urlsplit(url).password
    wrong = settings.model_copy(update={"database_url": SecretStr(url.replace(password, "wrong-secret"))})

    found = reason_of_outage(wrong)

    assert "password authentication failed" in found
    assert "secret" not in found


def test_a_server_that_is_down_is_named_as_the_reason(nowhere):
    found = reason_of_outage(nowhere)

    assert "refused" in found
    assert "secret" not in found


def test_a_database_that_does_not_exist_is_named_as_the_reason(settings):
    url = settings.database_url.get_secret_value()
    other = settings.model_copy(update={"database_url": SecretStr(url.rpartition("/")[0] + "/no_such_database")})

    assert 'database "no_such_database" does not exist' in reason_of_outage(other)
