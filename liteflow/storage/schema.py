"""Schema versions: which one a database has, creating it, refusing it, upgrading it.

The migrations are the truth about the schema. A database that is missing or empty is created at head straight from
the models, without paying for alembic's import; a test holds the two equal. No other function than `upgrade` and
`downgrade` changes the schema of a database that holds something.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, exc, text

import liteflow
from liteflow.errors import (
    DatabaseMissingError,
    NotALiteflowDatabaseError,
    SchemaOutdatedError,
    SchemaTooNewError,
    StorageError,
)
from liteflow.storage.engine import (
    BUSY_TIMEOUT_MS,
    Database,
    MemoryDatabase,
    connect,
    is_read_only,
    read_only_uri,
    refuse_network,
    storage_error,
)
from liteflow.storage.forks import gate
from liteflow.storage.tables import metadata
from liteflow.storage.untrusted import refuse_strange_schema

VERSION_TABLE = "liteflow_schema"
"""Where alembic keeps the revision of the database."""

HEAD = "0006"
"""The revision that this liteflow reads and writes. A test compares it with the migrations."""

_alembic_lock = threading.Lock()  # alembic's commands work through module globals


def migrations_directory() -> Path:
    """Beside the package in a wheel, at the top of a checkout; raises StorageError when it is at neither place."""
    package = Path(liteflow.__file__).parent
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise StorageError(f"liteflow is installed without its migrations (looked beside {package})", path=str(package))


def open_database(
    db_path: str | os.PathLike[str] | None = None, *, create: bool = False, pooled: bool = True
) -> Database:
    """Open the database and check that this liteflow can use it.

    With `create` a missing or empty one is created at head; without, a missing one raises DatabaseMissingError.
    An older, a newer and a foreign one raise SchemaOutdatedError, SchemaTooNewError and NotALiteflowDatabaseError,
    and are left as they are.
    """
    database = connect(db_path, pooled=pooled)
    try:
        if database.is_file:
            if create:
                refuse_network(database.path)
            elif not os.path.exists(database.path):
                raise DatabaseMissingError(
                    f"{database.path}: no such database. A run creates it; or name another one with --db (or "
                    "$LITEFLOW_DB)",
                    path=database.path,
                )
        with gate if database.is_file else nullcontext():
            found = revision_of(database)
            if found is None and create:
                found = _create(database)
        _check(database, found)
    except BaseException:
        database.close()
        raise
    return database


def memory_database() -> MemoryDatabase:
    """A new database in memory, at head."""
    database = MemoryDatabase()
    with database.write() as connection:
        metadata.create_all(connection, checkfirst=False)
        _stamp(connection, HEAD)
    return database


def revision_of(database: Database) -> str | None:
    """The revision of a database; None if it is missing or holds no table. A foreign one raises."""
    if database.is_file:
        return read_revision(database.path)
    with database.read() as connection:
        return _revision_within(database, connection)


def _revision_within(database: Database, connection: Connection) -> str | None:
    """The same inside of a scope."""
    tables = set(connection.exec_driver_sql(_TABLES if database.is_file else _TABLES_OF_SCHEMA).scalars())
    version = connection.exec_driver_sql(_VERSION).scalar() if VERSION_TABLE in tables else None
    return _revision(database.path, tables, version, is_file=database.is_file)


def read_revision(path: str, *, only_look: bool = False) -> str | None:
    """The revision of the database at `path`; None if it is missing or holds no table. A foreign one raises.

    Looks with a connection of its own, before any of ours: switching a stranger's file to WAL would change it. With
    `only_look` that one cannot write at all, so that what a killed process left in the WAL stays there too.
    """
    if os.path.isdir(path):
        raise NotALiteflowDatabaseError(f"{path}: a directory; name a file with --db", path=path)
    if not os.path.exists(path):
        return None
    connection = None
    try:
        connection = _connect(path, only_look=only_look)
        tables = {name for (name,) in connection.execute(_TABLES)}
        version = connection.execute(_VERSION).fetchone() if VERSION_TABLE in tables else None
        refuse_strange_schema(connection, path)
    except sqlite3.OperationalError as error:
        raise storage_error(path, error) from error
    except UnicodeDecodeError as error:  # SQLite's message quotes what is damaged
        raise storage_error(path, error) from error
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
            raise StorageError(
                f"{path}: {error}: the file is damaged, so that not even its tables can be read; restore it from a "
                f"backup, or save what is left: sqlite3 {shlex.quote(path)} .recover | sqlite3 NEW.db",
                path=path,
            ) from error
        raise NotALiteflowDatabaseError(
            f"{path}: not an SQLite database ({error}); name another file with --db", path=path
        ) from error
    finally:
        if connection is not None:
            connection.close()
    return _revision(path, tables, version[0] if version else None)


def _connect(path: str, *, only_look: bool = False) -> sqlite3.Connection:
    """A connection of the driver to a database that is there, with none of our settings."""
    uri = read_only_uri(path) if only_look or is_read_only(path) else f"{Path(path).absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000)


_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_TABLES_OF_SCHEMA = (
    "SELECT relname::text FROM pg_class c WHERE relkind IN ('r', 'p') "
    "AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) "
    "AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')"
)
"""Without those that belong to an extension."""
_VERSION = f"SELECT version_num FROM {VERSION_TABLE}"


def _revision(path: str, tables: set[str], version: str | None, *, is_file: bool = True) -> str | None:
    if version is not None:
        return version
    others = tables - {VERSION_TABLE, "sqlite_sequence", "sqlite_stat1"}
    if others and is_file:
        raise NotALiteflowDatabaseError(
            f"{path}: an SQLite database, but not one of liteflow's (it holds {_some(others)}). "
            "Name another file with --db",
            path=path,
        )
    if others:
        raise NotALiteflowDatabaseError(
            f"{path}: the schema is not one of liteflow's (it holds {_some(others)}). Name another database, "
            "or a schema that is made for it: add ?options=-csearch_path%3DSCHEMA to the URL",
            path=path,
        )
    return None


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def _create(database: Database) -> str | None:
    """Create every table at head in one transaction; when another process was first, take what it made."""
    parent = Path(database.path).parent
    if database.is_file and not parent.is_dir():
        raise StorageError(
            f"{database.path}: the directory {parent} does not exist; create it first", path=database.path
        )
    with database.write(durable=True) as connection:
        found = _revision_within(database, connection)
        if found is None:
            metadata.create_all(connection, checkfirst=False)
            _stamp(connection, HEAD)
            found = HEAD
    return found


def _stamp(connection: Connection, revision: str) -> None:
    # Word for word what alembic writes, so that a created and a migrated database are the same.
    connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (\n\tversion_num VARCHAR(32) NOT NULL, \n\t"
            f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
        )
    )
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision})


def _check(database: Database, found: str | None) -> None:
    if found == HEAD:
        return
    path = database.path
    if found is None:
        raise SchemaOutdatedError(
            f"{path}: empty. Create its tables with: liteflow db upgrade --db {path}",
            path=path,
            found="",
            needed=HEAD,
        )
    if found in known_revisions():
        beside = "a backup is made" if database.is_file else "make a backup first, with pg_dump"
        raise SchemaOutdatedError(
            f"{path}: has schema {found}, this liteflow needs {HEAD}. Upgrade it ({beside}) with: "
            f"liteflow db upgrade --db {path}",
            path=path,
            found=found,
            needed=HEAD,
        )
    another = "file" if database.is_file else "database"
    raise SchemaTooNewError(
        f"{path}: has schema {found}, which this liteflow ({HEAD}) does not know: a newer one wrote it. "
        f"Upgrade liteflow, or name another {another} with --db",
        path=path,
        found=found,
        needed=HEAD,
    )


def known_revisions() -> list[str]:
    """The revisions that this liteflow can come from, oldest first."""
    return sorted(file.name.split("_", 1)[0] for file in (migrations_directory() / "versions").glob("[0-9]*_*.py"))


@dataclass(frozen=True)
class Change:
    """What `upgrade` or `downgrade` did: revisions before and after (None: empty), and the backup's path.

    There is no backup of a database that was empty, nor of one in a server, whose users have their own ways.
    """

    before: str | None
    after: str | None
    backup: str | None


def upgrade(db_path: str | os.PathLike[str] | None = None, revision: str = "head") -> Change:
    """Bring the database to `revision`; a missing one is created.

    All or nothing, and safe when several processes do it at once. A file that holds something is backed up first,
    beside itself; a server's database is not. Raises as `open_database` does for newer and foreign ones.
    """
    target = HEAD if revision == "head" else revision
    return _migrate(db_path, target, lambda command, config: command.upgrade(config, revision))


def downgrade(db_path: str | os.PathLike[str] | None, revision: str) -> Change:
    """Take the database back to `revision` (`base`: no tables at all), after a backup. All or nothing."""
    target = None if revision == "base" else revision
    return _migrate(db_path, target, lambda command, config: command.downgrade(config, revision))


def _migrate(db_path: str | os.PathLike[str] | None, target: str | None, run: Callable[[Any, Any], None]) -> Change:
    database = connect(db_path, pooled=False)
    try:
        if database.is_file:
            refuse_network(database.path)
        known = known_revisions()
        before = revision_of(database)
        if before is not None and before not in known:
            _check(database, before)
        if target is not None and target not in known:
            raise StorageError(f"no schema revision {target!r}; there are {', '.join(known)}", path=database.path)
        if before == target:
            return Change(before, before, None)
        if not database.is_file:
            _run_alembic_in_server(database, run)
            return Change(before, revision_of(database), None)
        if not Path(database.path).parent.is_dir():
            raise StorageError(f"{database.path}: its directory does not exist; create it first", path=database.path)
        backup = _backup(database.path, before) if before is not None else None
        _run_alembic(database, run)
        return Change(before, revision_of(database), backup)
    finally:
        database.close()


def _run_alembic_in_server(database: Database, run: Callable[[Any, Any], None]) -> None:
    """In a write scope: DDL is part of a transaction there, and the scope's lock keeps others from doing the same."""
    from alembic import command

    config = alembic_config()
    with _alembic_lock, database.write(durable=True) as connection:
        connection.begin()  # so that alembic sees that the transaction is not its own
        config.attributes["connection"] = connection
        run(command, config)


def _run_alembic(database: Database, run: Callable[[Any, Any], None]) -> None:
    from alembic import command

    config = alembic_config()
    try:
        with _alembic_lock, database.engine.connect() as connection:
            connection = connection.execution_options(liteflow_begin="BEGIN IMMEDIATE")
            driver: Any = connection.connection.driver_connection
            # Rebuilding a parent table with foreign keys on would delete its children's rows, and inside a
            # transaction the pragma does nothing.
            driver.execute("PRAGMA foreign_keys=OFF")
            driver.execute("PRAGMA synchronous=FULL")
            try:
                with connection.begin():
                    config.attributes["connection"] = connection
                    run(command, config)
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
                    if broken:
                        raise StorageError(
                            f"{database.path}: the migration would leave {len(broken)} rows without what they "
                            "refer to; nothing was changed",
                            path=database.path,
                        )
            finally:
                driver.execute("PRAGMA synchronous=NORMAL")
                driver.execute("PRAGMA foreign_keys=ON")
    except exc.DBAPIError as error:
        raise storage_error(database.path, error) from error


def alembic_config() -> Any:
    """alembic's `Config` for our migrations, built in code: an installed liteflow has no alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def backup(db_path: str | os.PathLike[str] | None = None, target: str | os.PathLike[str] | None = None) -> str:
    """Copy the database to `target`, default beside itself with its revision and the time; returns the path.

    The copy is a single file, as the database stood at one moment, while runs go on. A database of an older revision
    is copied too. Raises StorageError when `target` is there already, or cannot be written: nothing is left of it then.
    """
    database = connect(db_path, pooled=False)
    if not database.is_file:
        raise StorageError(
            f"{database.path}: a server's database is not copied to a file; use pg_dump", path=database.path
        )
    path = database.path
    revision = read_revision(path)
    if revision is None:
        found = "empty" if os.path.exists(path) else "no such database"
        raise DatabaseMissingError(
            f"{path}: {found}; there is nothing to back up. Name another file with --db", path=path
        )
    return _backup(path, revision, target)


def _backup(path: str, revision: str, target: str | os.PathLike[str] | None = None) -> str:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    copy_path = os.fspath(target) if target is not None else f"{path}.{revision}.{stamp}.backup"
    try:
        with open(copy_path, "xb"):
            pass  # ours from here on
    except FileExistsError:
        raise StorageError(f"{copy_path}: there already; name another file for the backup", path=copy_path) from None
    except OSError as error:
        raise StorageError(
            f"{copy_path}: the backup cannot be written ({error.strerror}); name another file for it", path=copy_path
        ) from error
    try:
        _copy(path, copy_path)
    except BaseException as error:
        for leftover in (copy_path, f"{copy_path}-journal"):
            Path(leftover).unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):
            cause = storage_error(path, error)
            raise StorageError(f"{copy_path}: the backup failed and was removed: {cause}", path=path) from error
        raise
    return copy_path


def _copy(path: str, target: str) -> None:
    """SQLite's own backup, which sees one state of the database."""
    with closing(_connect(path)) as source, closing(sqlite3.connect(target)) as copy:
        source.execute("PRAGMA wal_autocheckpoint=0")
        source.backup(copy)
        # Without a WAL it can also be opened where nothing can be written.
        copy.execute("PRAGMA journal_mode=DELETE")


def history() -> list[tuple[str, str]]:
    """Every revision and its one-line reason, oldest first."""
    from alembic.script import ScriptDirectory

    with _alembic_lock:
        scripts = ScriptDirectory.from_config(alembic_config())
        return [(script.revision, script.doc) for script in reversed(list(scripts.walk_revisions()))]
