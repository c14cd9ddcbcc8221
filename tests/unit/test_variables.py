"""Variables and connections: from the environment, from the file of settings, and what is said when there are none."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

import liteflow
from liteflow.authoring.accessors import CONNECTIONS, VARIABLES
from liteflow.authoring.connections import BaseHook, Connection
from liteflow.authoring.variables import Variable
from liteflow.errors import ConnectionNotFoundError, NotFoundError, SettingsError, VariableNotFoundError

SETTINGS = """
[variables]
bucket = "orders"
rows = 5
limits = { a = [1, 2], day = 2026-01-02 }
day = 2026-01-02
broken = "{"

[connections]
warehouse = "postgresql://reader:s%2Fcret@db.example.org:5432/orders?sslmode=require"
as_json = '{"conn_type": "my-kind", "port": "8080", "extra": {"a": 1}}'
nothing = ""

[connections.lake]
conn_type = "aws"
login = "key"
extra = { region_name = "eu-central-1", depth = { x = 1 } }

[connections.wrong]
conn_typ = "aws"
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "liteflow.toml"
    path.write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return path


# Failures first


def test_a_variable_that_is_missing_says_both_ways_to_give_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VariableNotFoundError) as caught:
        Variable.get("bucket")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, NotFoundError)
    assert "\n" not in str(caught.value)
    assert "AIRFLOW_VAR_BUCKET" in str(caught.value)
    assert 'bucket = "..." under [variables] in liteflow.toml' in str(caught.value)


def test_a_connection_that_is_missing_says_both_ways_to_give_it(settings: Path) -> None:
    with pytest.raises(ConnectionNotFoundError, match="did you mean 'warehouse'") as caught:
        BaseHook.get_connection("warehose")
    assert "AIRFLOW_CONN_WAREHOSE" in str(caught.value)
    assert f"under [connections] in {settings}" in str(caught.value)


@pytest.mark.parametrize("what", ["set", "update", "delete", "setdefault"])
def test_variables_are_only_read(what: str, settings: Path) -> None:
    values = () if what == "delete" else ("value",)
    with pytest.raises(SettingsError, match=rf"Variable\.{what}\('new'.*liteflow only reads variables"):
        getattr(Variable, what)("new", *values)
    assert settings.read_text() == SETTINGS
    assert Variable.setdefault("bucket", "other") == "orders"


def test_a_file_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFLOW_SETTINGS", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"none\.toml cannot be read: No such file"):
        Variable.get("bucket", "default")


@pytest.mark.parametrize("text", ["[variables", "variables = 5"])
def test_a_file_that_is_broken_is_named(text: str, settings: Path) -> None:
    settings.write_text(text)
    with pytest.raises(SettingsError, match=r"liteflow\.toml: ") as caught:
        Variable.get("bucket")
    assert caught.value.path == str(settings)


def test_a_variable_that_is_no_json_is_named(settings: Path) -> None:
    with pytest.raises(SettingsError, match="the variable 'broken' is no JSON"):
        Variable.get("broken", deserialize_json=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x://a@b://host", "the URI of connection 'c' is broken"),
        ("x://user:hidden@host:port/", "the URI of connection 'c' is broken"),
        ('{"port": "hidden', "AIRFLOW_CONN_C is no JSON"),
        ('{"port": "http"}', "port='http' must be a whole number"),
        ('{"hots": "h"}', "no 'hots'; did you mean 'host'|no 'hots'.*did you mean 'host'"),
        (" ", "must be a URI, JSON or a table"),
    ],
)
def test_a_broken_connection_is_told_without_its_secrets(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_C", text)
    with pytest.raises(SettingsError, match=message) as caught:
        Connection.get("c")
    assert "hidden" not in str(caught.value)


def test_a_table_that_is_broken_is_named(settings: Path) -> None:
    with pytest.raises(SettingsError, match="wrong in the file of settings: a connection has no 'conn_typ'"):
        Connection.get("wrong")
    with pytest.raises(SettingsError, match="nothing in the file of settings must be a URI, JSON or a table"):
        Connection.get("nothing")


def test_a_uri_and_parts_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="give uri= or the parts, not both"):
        Connection("c", uri="x://h", host="h")


# Variables


def test_the_environment_comes_before_the_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Variable.get("bucket") == "orders"
    monkeypatch.setenv("AIRFLOW_VAR_BUCKET", "mine")
    assert Variable.get("bucket") == "mine"


def test_a_value_is_text_unless_json_is_asked_for(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Variable.get(key) for key in ("rows", "day")] == ["5", "2026-01-02"]
    assert json.loads(Variable.get("limits")) == {"a": [1, 2], "day": "2026-01-02"}
    assert Variable.get("rows", deserialize_json=True) == 5
    monkeypatch.setenv("AIRFLOW_VAR_LIST", "[1, 2]")
    assert Variable.get("list", deserialize_json=True) == [1, 2]


def test_a_default_is_given_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Variable.get("none", None) is None
    assert Variable.get("none", default_var={"a": 1}, deserialize_json=True) == {"a": 1}


def test_a_file_that_was_changed_is_read_again(settings: Path) -> None:
    assert Variable.get("bucket") == "orders"
    settings.write_text('[variables]\nbucket = "others"')
    assert Variable.get("bucket") == "others"
    settings.unlink()
    assert Variable.get("bucket", "gone") == "gone"


def test_the_file_may_be_named(settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[variables]\nbucket = "named"')
    monkeypatch.setenv("LITEFLOW_SETTINGS", os.path.relpath(other))
    assert Variable.get("bucket") == "named"


def test_keys_are_those_of_the_file(settings: Path) -> None:
    assert Variable.keys("b") == ["broken", "bucket"]


def test_the_accessors_of_the_context(settings: Path) -> None:
    var = VARIABLES
    assert (var["value"].bucket, var["value"].get("none", "fallback")) == ("orders", "fallback")
    assert (var["json"].limits["a"], var["json"].get("none", {})) == ([1, 2], {})
    with pytest.raises(VariableNotFoundError):
        var["value"].get("none")
    assert not hasattr(var["value"], "__html__")
    conn = CONNECTIONS
    assert conn.lake.login == "key"
    assert (conn.get("none"), conn.get("none", 5), conn.get("lake")) == (None, 5, conn.lake)


# Connections


def test_connections_come_from_all_their_sources(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Connection.get("warehouse")
    parts = (found.conn_type, found.login, found.password, found.host, found.port, found.schema, found.extra_dejson)
    assert parts == (
        *("postgres", "reader", "s/cret", "db.example.org", 5432, "orders"),
        {"sslmode": "require"},
    )
    assert Connection.get("as_json") == Connection("as_json", "my_kind", port=8080, extra={"a": 1})
    assert Connection.get("lake").extra_dejson == {"region_name": "eu-central-1", "depth": {"x": 1}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "http://https://api.example.org:8443/v1")
    found = asyncio.run(Connection.async_get("warehouse"))
    assert (found.conn_type, found.host, found.port, found.schema) == ("http", "https://api.example.org", 8443, "v1")
    assert asyncio.run(BaseHook.aget_connection("warehouse")) == found


# As Airflow 3.3.2 reads and writes them.
URIS: list[tuple[str, list[Any], str]] = [
    ("my-type://", ["my_type", "", "", None, None, None, None], "my-type://"),
    ("x://:pw@h", ["x", "h", "", "", "pw", None, None], "x://:pw@h"),
    ("x://@:80", ["x", "", "", "", None, 80, None], "x://@:80"),
    ("sqlite://%2FTmp%2Fx.db", ["sqlite", "/Tmp/x.db", "", None, None, None, None], "sqlite://%2FTmp%2Fx.db"),
    ("fs:///?path=%2Ftmp", ["fs", "", "", None, None, None, '{"path": "/tmp"}'], "fs:///?path=%2Ftmp"),
    ("x://u@h:1/s/t", ["x", "h", "s/t", "u", None, 1, None], "x://u@h:1/s%2Ft"),
    (
        "aws://k:s%2F@/?__extra__=%7B%22a%22%3A+1%7D",
        ["aws", "", "", "k", "s/", None, '{"a": 1}'],
        "aws://k:s%2F@/?__extra__=%7B%22a%22%3A+1%7D",
    ),
]


@pytest.mark.parametrize(("uri", "parts", "again"), URIS, ids=[uri for uri, _, _ in URIS])
def test_uris_are_read_and_written_as_airflow_does(uri: str, parts: list[Any], again: str) -> None:
    one = Connection.from_uri(uri, "c")
    assert [one.conn_type, one.host, one.schema, one.login, one.password, one.port, one.extra] == parts
    assert one.get_uri() == again
    assert Connection.from_uri(again, "c") == one


def test_json_is_read_and_written() -> None:
    one = Connection("c", "aws", login="k", password="p", port=1, extra={"a": {"b": 2}})
    assert Connection.from_json(one.as_json(), "c") == one
    assert one.get_password() == "p"
    assert one.get_extra_dejson() == {"a": {"b": 2}}


def test_secrets_are_not_shown() -> None:
    one = Connection("c", "aws", login="key", password="hidden", extra={"token": "hidden"})
    assert repr(one) == str(one) == "Connection(conn_id='c', conn_type='aws', login='key', password='***', extra='***')"
    assert "hidden" not in repr(Variable("key", "hidden"))


def test_an_extra_that_is_no_object_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert Connection("c", extra="hidden {").extra_dejson == {}
    assert "the extra of connection 'c' is no JSON" in caplog.text
    assert "hidden" not in caplog.text
    assert Connection("c", extra="[1]").extra_dejson == {}


def test_both_are_names_of_the_package_that_cost_nothing_before() -> None:
    assert (liteflow.Variable, liteflow.Connection) == (Variable, Connection)
    assert {"Variable", "Connection"} <= set(liteflow.__all__)


def test_a_hook_has_connections_and_a_log(settings: Path) -> None:
    class Hook(BaseHook):
        def get_conn(self) -> str | None:
            return self.get_connection("lake").login

    class Plain(BaseHook):
        def __init__(self) -> None:
            pass

    assert Hook().get_conn() == "key"
    assert Hook().log.name.endswith("Hook")
    assert (Plain().log.name.endswith("Plain"), BaseHook("mine").log.name) == (True, "mine")
    with pytest.raises(NotImplementedError):
        Plain().get_conn()
