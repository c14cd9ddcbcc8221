"""`var` and `conn` in the context: variables and connections as attributes, imported when they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liteflow.authoring.params import NOTSET
from liteflow.errors import ConnectionNotFoundError

if TYPE_CHECKING:
    from liteflow.authoring.connections import Connection


class VariableAccessor:
    """`var.value` and `var.json`: `var.value.bucket`, `var.value.get("bucket", "none")`."""

    def __init__(self, *, deserialize_json: bool) -> None:
        self._deserialize_json = deserialize_json

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):  # somebody asks what this object can do
            raise AttributeError(key)
        return self.get(key)

    def get(self, key: str, default: Any = NOTSET) -> Any:
        """The value, else `default`; VariableNotFoundError if there is neither."""
        from liteflow.authoring.variables import Variable

        return Variable.get(key, default, self._deserialize_json)

    def __repr__(self) -> str:
        return "<variables as JSON>" if self._deserialize_json else "<variables>"


class ConnectionAccessor:
    """`conn`: `conn.warehouse.host`, `conn.get("warehouse")`."""

    def __getattr__(self, conn_id: str) -> Connection:
        if conn_id.startswith("__"):  # somebody asks what this object can do
            raise AttributeError(conn_id)
        from liteflow.authoring.connections import Connection

        return Connection.get(conn_id)

    def get(self, conn_id: str, default_conn: Any = None) -> Any:
        """The connection, else `default_conn`."""
        try:
            return getattr(self, conn_id)
        except ConnectionNotFoundError:
            return default_conn

    def __repr__(self) -> str:
        return "<connections>"


CONNECTIONS = ConnectionAccessor()
"""What stands under `conn` in the context."""

VARIABLES = {"value": VariableAccessor(deserialize_json=False), "json": VariableAccessor(deserialize_json=True)}
"""What stands under `var` in the context."""
