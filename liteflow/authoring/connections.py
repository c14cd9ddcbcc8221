"""`Connection`: where a service is and who may use it, by id. Airflow keeps them in its database; here they are given.

In this order: the environment variable `AIRFLOW_CONN_<ID>`, id in capitals, and `[connections]` in the file of settings
(`settings.py`). Both hold a URI or the parts, as JSON and as a table. The forms are those of Airflow:
`postgres://login:password@host:5432/schema?sslmode=require`, everything percent-encoded, what stands behind `?` is the
extra.
"""

from __future__ import annotations

import json
import logging
import os
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from liteflow.authoring.ids import did_you_mean
from liteflow.authoring.settings import how_to_give, settings_table
from liteflow.errors import ConnectionNotFoundError, SettingsError

_PREFIX = "AIRFLOW_CONN_"
_PARTS = ("conn_type", "description", "host", "schema", "login", "password", "port", "extra")
_MASK = "***"
_logger = logging.getLogger("liteflow")


class Connection:
    """Where a service is and who may use it: parts, or one `uri`, not both. Parts that are not given are None.

    `extra` is text, JSON as a rule; `extra_dejson` is what it holds. Neither password nor extra is shown by `repr`.
    """

    EXTRA_KEY = "__extra__"
    """Under which an extra that is no flat dict of texts stands in a URI."""

    def __init__(
        self,
        conn_id: str | None = None,
        conn_type: str | None = None,
        description: str | None = None,
        host: str | None = None,
        login: str | None = None,
        password: str | None = None,
        schema: str | None = None,
        port: int | None = None,
        extra: str | dict[str, Any] | None = None,
        uri: str | None = None,
    ) -> None:
        self.conn_id = conn_id
        self.conn_type = conn_type
        self.description = description
        self.host = host
        self.login = login
        self.password = password
        self.schema = schema
        self.port = port
        self.extra: str | None = extra if isinstance(extra, str) or extra is None else json.dumps(extra)
        if uri is not None:
            if any(getattr(self, part) is not None for part in _PARTS):
                raise SettingsError(f"connection {conn_id!r}: give uri= or the parts, not both")
            for part, value in _parts_of_uri(uri, conn_id, self.EXTRA_KEY).items():
                setattr(self, part, value)

    @classmethod
    def get(cls, conn_id: str) -> Connection:
        """The connection of that id. Raises ConnectionNotFoundError, which says both ways to give one."""
        name = _PREFIX + str(conn_id).upper()
        given = os.environ.get(name)
        if given is not None:
            return _from_text(given, conn_id, f"the environment variable {name}")
        table = settings_table("connections")
        if conn_id not in table:
            ways = how_to_give(name, "connections", f'{conn_id} = "type://login:password@host:port/schema"')
            near = did_you_mean(str(conn_id), table)
            raise ConnectionNotFoundError(f"there is no connection {conn_id!r}{near}; {ways}", identifier=str(conn_id))
        found = table[conn_id]
        where = f"[connections] {conn_id} in the file of settings"
        return _from_parts(found, conn_id, where) if isinstance(found, dict) else _from_text(found, conn_id, where)

    @classmethod
    async def async_get(cls, conn_id: str) -> Connection:
        """As `get`, in a coroutine."""
        return cls.get(conn_id)

    @classmethod
    def from_uri(cls, uri: str, conn_id: str | None = None) -> Connection:
        """The connection that a URI names."""
        return cls(conn_id, uri=uri)

    @classmethod
    def from_json(cls, value: str, conn_id: str | None = None) -> Connection:
        """The connection whose parts are a JSON object; `extra` may be an object of its own."""
        return _from_json(value, conn_id, "the JSON of a connection")

    @property
    def extra_dejson(self) -> dict[str, Any]:
        """What `extra` holds; empty if there is none or it is no JSON object."""
        if not self.extra:
            return {}
        try:
            found = json.loads(self.extra)
        except ValueError:
            _logger.warning("the extra of connection %r is no JSON", self.conn_id)
            return {}
        return found if isinstance(found, dict) else {}

    def get_extra_dejson(self) -> dict[str, Any]:
        """`extra_dejson`, under its older name."""
        return self.extra_dejson

    def get_password(self) -> str | None:
        """`password`, under its older name."""
        return self.password

    def get_uri(self) -> str:
        """All of it as a URI that `from_uri` reads."""
        kind = f"{self.conn_type.lower().replace('_', '-')}:" if self.conn_type else ""
        protocol, separator, host = (self.host or "").rpartition("://")
        if protocol == self.conn_type:  # it stands there once
            protocol, separator, host = "", "", self.host or ""
        who = "" if self.login is None else quote(self.login, safe="")
        if self.password is not None:
            who += ":" + quote(self.password, safe="")
        who += "@" if who else ""
        where = quote(host, safe="")
        if self.port:
            where += f":{self.port}" if where or who else f"@:{self.port}"
        path = f"/{quote(self.schema, safe='')}" if self.schema else ""
        return f"{kind}//{protocol}{separator}{who}{where}{path}{self._query()}"

    def _query(self) -> str:
        if not self.extra:
            return ""
        found = self.extra_dejson
        query = urlencode(found)
        if not query or dict(parse_qsl(query, keep_blank_values=True)) != found:
            query = urlencode({self.EXTRA_KEY: self.extra})
        return ("?" if self.schema else "/?") + query

    def to_dict(self, *, prune_empty: bool = False) -> dict[str, Any]:
        """Its parts by name, the extra as a dict, the password too. `prune_empty` leaves out what is None or empty."""
        parts = {"conn_id": self.conn_id, **{part: getattr(self, part) for part in _PARTS}}
        parts["extra"] = self.extra_dejson
        return {name: value for name, value in parts.items() if value not in (None, {})} if prune_empty else parts

    def as_json(self) -> str:
        """Its parts as JSON that `from_json` reads."""
        parts = self.to_dict(prune_empty=True)
        parts.pop("conn_id", None)
        return json.dumps(parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Connection) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        shown = {"conn_id": self.conn_id, **{part: getattr(self, part) for part in _PARTS}}
        for secret in ("password", "extra"):
            shown[secret] = _MASK if shown[secret] else None
        return f"Connection({', '.join(f'{name}={value!r}' for name, value in shown.items() if value is not None)})"

    __str__ = __repr__


class BaseHook:
    """What hooks derive from: it finds connections, and has a `log`."""

    def __init__(self, logger_name: str | None = None) -> None:
        self._logger_name = logger_name

    @cached_property
    def log(self) -> logging.Logger:
        """The logger of the class, or of the name that it was made with."""
        name = getattr(self, "_logger_name", None)  # a hook need not call our __init__
        return logging.getLogger(name or f"{type(self).__module__}.{type(self).__qualname__}")

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """See `Connection.get`."""
        return Connection.get(conn_id)

    @classmethod
    async def aget_connection(cls, conn_id: str) -> Connection:
        """As `get_connection`, in a coroutine."""
        return Connection.get(conn_id)

    def get_conn(self) -> Any:
        """What a hook connects to; for a class that derives from this one to say."""
        raise NotImplementedError(f"{type(self).__name__} has no get_conn()")


def _from_text(value: Any, conn_id: str | None, where: str) -> Connection:
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{where} must be a URI, JSON or a table")
    return (
        _from_json(value, conn_id, where) if value.strip().startswith("{") else Connection(conn_id, uri=value.strip())
    )


def _from_json(value: str, conn_id: str | None, where: str) -> Connection:
    try:
        parts = json.loads(value)
    except ValueError as error:
        raise SettingsError(f"{where} is no JSON: {error}") from None
    if not isinstance(parts, dict):
        raise SettingsError(f"{where} must be a JSON object")
    return _from_parts(parts, conn_id, where)


def _from_parts(given: dict[str, Any], conn_id: str | None, where: str) -> Connection:
    parts = {name: value for name, value in given.items() if value is not None}
    for name in parts:
        if name not in (*_PARTS, "uri"):
            known = ("uri", *_PARTS)
            raise SettingsError(f"{where}: a connection has no {name!r}{did_you_mean(name, known)}")
    if "conn_type" in parts:
        parts["conn_type"] = _kind(str(parts["conn_type"]))
    if "port" in parts:
        try:
            parts["port"] = int(parts["port"]) if parts["port"] != "" else None
        except (TypeError, ValueError):
            raise SettingsError(f"{where}: port={parts['port']!r} must be a whole number") from None
    return Connection(conn_id, **parts)


def _parts_of_uri(uri: str, conn_id: str | None, extra_key: str) -> dict[str, Any]:
    """The parts of a URI. What is wrong with it is told without it: it holds a password as a rule."""
    broken = SettingsError(
        f"the URI of connection {conn_id!r} is broken: it must be type://login:password@host:port/schema?key=value, "
        "and characters such as / and @ inside of a part are percent-encoded"
    )
    kind, separator, rest = uri.partition("://")
    if not separator:
        kind, rest = "", uri.removeprefix("//")
    protocol = ""
    if "://" in rest.partition("?")[0]:
        protocol, _, rest = rest.partition("://")
        if "@" in protocol or ":" in protocol:
            raise broken
    try:
        split = urlsplit(f"//{rest}")
        port = split.port
    except ValueError:
        raise broken from None
    host = _host(split)
    query = dict(parse_qsl(split.query, keep_blank_values=True))
    return {
        "conn_type": _kind(kind),
        "host": f"{protocol}://{host}" if protocol and host else host,
        "schema": unquote(split.path[1:]),
        "login": unquote(split.username) if split.username else split.username,
        "password": unquote(split.password) if split.password else split.password,
        "port": port,
        "extra": (query[extra_key] if extra_key in query else json.dumps(query)) if query else None,
    }


def _host(split: SplitResult) -> str:
    """The host; one that is a path when it is decoded keeps its capitals, as in Airflow."""
    host = unquote(split.hostname or "")
    return unquote(split.netloc.rpartition("@")[2].partition(":")[0]) if "/" in host else host


def _kind(conn_type: str) -> str:
    return "postgres" if conn_type == "postgresql" else conn_type.replace("-", "_")
