"""`liteflow db`: the database itself: its schema, its backup, its size, whether it is sound."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    ask,
    db_hint,
    db_option,
    echo,
    examples,
    home_relative,
    is_interrupted,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
    when,
)
from liteflow.cli.words import bytes_text

if TYPE_CHECKING:
    from liteflow.storage.sizes import DatabaseSize, NamedRun


@click.group("db")
def db_command() -> None:
    """Create, upgrade, back up, measure and check the database."""


@examples("liteflow db upgrade", "liteflow db upgrade --db etl.db")
@db_command.command("upgrade")
@click.argument("revision", default="head")
@db_option
def upgrade_command(revision: str, db_path: str | None) -> None:
    """Bring the database to REVISION (default: head); a missing one is created, others are backed up first."""
    from liteflow.storage import schema

    _report(schema.upgrade(db_path, revision))


@examples("liteflow db downgrade base --db etl.db")
@db_command.command("downgrade")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@db_option
def downgrade_command(revision: str, yes: bool, db_path: str | None) -> None:
    """Take the database back to REVISION (base: no tables at all). A backup is made first."""
    from liteflow.storage import schema

    ask(f"Take the database back to {revision}?", yes)
    _report(schema.downgrade(db_path, revision))


def _report(change: object) -> None:
    from liteflow.storage.schema import Change

    assert isinstance(change, Change)
    if change.backup is not None:
        echo(f"backup: {home_relative(change.backup)}", err=True)
    if change.before == change.after:
        echo(f"at {change.after or 'base'} already", err=True)
    else:
        echo(f"{change.before or 'empty'} -> {change.after or 'base'}", err=True)


@examples("liteflow db current")
@db_command.command("current")
@db_option
@json_option
def current_command(db_path: str | None, as_json: bool) -> None:
    """Print the schema revision of the database, and whether this liteflow can use it."""
    from liteflow.errors import DatabaseMissingError
    from liteflow.storage import schema
    from liteflow.storage.engine import connect

    database = connect(db_path, pooled=False)
    path = database.path
    if database.is_file and not os.path.exists(path):
        raise DatabaseMissingError(
            f"{path}: no such database. Create it with: liteflow db upgrade{db_hint(path)}", path=path
        )
    found = schema.revision_of(database)
    if as_json:
        print_json({"path": path, "revision": found, "head": schema.HEAD, "usable": found == schema.HEAD})
    else:
        echo(f"{found or 'base'}{' (head)' if found == schema.HEAD else f', needed: {schema.HEAD}'}")


@examples("liteflow db history")
@db_command.command("history")
@json_option
def history_command(as_json: bool) -> None:
    """List the schema revisions that this liteflow knows, oldest first."""
    from liteflow.storage import schema

    found = schema.history()
    if as_json:
        print_json([{"revision": revision, "reason": reason} for revision, reason in found])
    else:
        print_table(["REVISION", "REASON"], [list(one) for one in found], empty="there are none")


@examples("liteflow db backup", "liteflow db backup /backups/etl.db --db etl.db")
@db_command.command("backup")
@click.argument("target", required=False, type=click.Path())
@db_option
def backup_command(target: str | None, db_path: str | None) -> None:
    """Copy the database to TARGET, a single file, also while runs go on. Prints its path.

    Without TARGET it lies beside the database, with the time in its name. A file that is there is not overwritten.
    A database of PostgreSQL is backed up with pg_dump, or copied to a file with: liteflow db copy
    """
    from liteflow.storage import schema
    from liteflow.storage.engine import connect

    database = connect(db_path, pooled=False)
    if not database.is_file:
        raise click.UsageError(
            f"{database.path}: no file; back it up with pg_dump, or copy it to one with: liteflow db copy "
            f"{shlex.quote(database.path)} FILE"
        )
    if target is not None and os.path.lexists(target):
        raise click.BadParameter(f"{target}: there already; name another file for the backup", param_hint="TARGET")
    echo(schema.backup(db_path, target))


@examples(
    "liteflow db copy liteflow.db postgresql+psycopg://etl@db.example/history",
    "liteflow db copy postgresql+psycopg://etl@db.example/history history.db",
)
@db_command.command("copy")
@click.argument("source", metavar="SRC", shell_complete=completing.files)
@click.argument("target", metavar="DST", shell_complete=completing.files)
@json_option
def copy_command(source: str, target: str, as_json: bool) -> None:
    """Copy the whole history from SRC to DST, also while runs go on in SRC. Each is a file or a URL.

    DST may hold nothing yet. All or nothing: what was written is read again before it is committed. Runs that go on in
    SRC arrive as interrupted ones, to be resumed.
    """
    from liteflow.storage.copying import copy_history

    copied = copy_history(source, target)
    if as_json:
        tables = [one._asdict() for one in copied.tables]
        print_json({"source": copied.source, "target": copied.target, "tables": tables})
    else:
        print_table(
            ["TABLE", "ROWS", "BYTES"],
            [[one.table, f"{one.rows:,}", bytes_text(one.bytes)] for one in copied.tables],
            empty="there are no tables",
        )
        echo(f"{home_relative(copied.source)} -> {home_relative(copied.target)}", err=True)


@examples("liteflow db check", "liteflow db check --db etl.db --json")
@db_command.command("check")
@db_option
@json_option
def check_command(db_path: str | None, as_json: bool) -> None:
    """Look for damage, dangling rows, a schema that is not this liteflow's, and states that cannot be.

    Exit 3 when something was found. Safe at any time, also while runs go on; interrupted runs are no damage.
    """
    from liteflow.storage.checking import check

    found = check(db_path)
    if as_json:
        print_json({"problems": found})
    else:
        for line in found:
            echo(line)
        if not found:
            echo("ok", err=True)
    sys.exit(3 if found else 0)


@examples("liteflow db stats", "liteflow db stats --db etl.db --json")
@db_command.command("stats")
@db_option
@json_option
def stats_command(db_path: str | None, as_json: bool) -> None:
    """Show how large the database is, and what takes the room: by table and by dag.

    Reads all of it, which takes a second or two for a million task instances.
    """
    from liteflow.storage.sizes import sizes_of

    history = open_history(db_path)
    path = history.database.path
    with history.read() as connection:
        found = sizes_of(connection, path)
    if as_json:
        print_json(_stats_document(path, found))
    else:
        _print_stats(path, found)


def _stats_document(path: str, found: DatabaseSize) -> dict[str, Any]:
    space = found.space
    return {
        "path": path,
        "file_bytes": found.file_bytes,
        "wal_bytes": found.wal_bytes,
        "page_bytes": space.page_bytes,
        "pages": space.pages,
        "free_pages": space.free_pages,
        "auto_vacuum": space.auto_vacuum,
        "bytes_from": "pages" if found.is_measured else "lengths",
        "tables": [one._asdict() for one in found.tables],
        "dags": [one._asdict() for one in found.dags],
        "oldest_run": _run_named(found.oldest),
        "newest_run": _run_named(found.newest),
    }


def _run_named(run: NamedRun | None) -> dict[str, Any] | None:
    return None if run is None else {**run._asdict(), "created_at": iso(run.created_at)}


def _print_stats(path: str, found: DatabaseSize) -> None:
    echo(path)
    echo(_room(found))
    for word, run in (("oldest", found.oldest), ("newest", found.newest)):
        if run is not None:
            echo(f"{word} run {run.dag_id}/{run.run_id}, {when(run.created_at)}")
    echo()
    print_table(
        ["TABLE", "ROWS", "BYTES"],
        [[one.table, f"{one.rows:,}", bytes_text(one.bytes)] for one in found.tables],
        empty="there are no tables",
    )
    if not found.is_measured:
        echo("bytes are the lengths of what the rows hold: this SQLite cannot tell the pages of a table", err=True)
    echo()
    print_table(
        ["DAG", "RUNS", "INSTANCES", "TRIES", "LOG LINES", "LOG BYTES", "XCOMS", "XCOM BYTES"],
        [
            [
                one.dag_id,
                *(f"{count:,}" for count in (one.runs, one.task_instances, one.tries, one.log_lines)),
                bytes_text(one.log_bytes),
                f"{one.xcoms:,}",
                bytes_text(one.xcom_bytes),
            ]
            for one in found.dags
        ],
        empty="no dag has run here yet",
    )


def _room(found: DatabaseSize) -> str:
    space = found.space
    if space.auto_vacuum == "server":
        return f"tables and indexes {bytes_text(found.file_bytes)}"
    free = bytes_text(space.free_pages * space.page_bytes)
    how = "given back by: liteflow prune" if space.can_shrink else "given back by: liteflow db vacuum"
    return f"file {bytes_text(found.file_bytes)}, WAL {bytes_text(found.wal_bytes)}, free for new runs {free}" + (
        f" ({how})" if space.free_pages else ""
    )


@examples("liteflow db vacuum", "liteflow db vacuum --force --db etl.db")
@db_command.command("vacuum")
@click.option("--force", is_flag=True, help="Also while runs go on: they wait until it is done.")
@db_option
def vacuum_command(force: bool, db_path: str | None) -> None:
    """Write the database anew, as small as it can be.

    Needed once for a file that an older liteflow made: from then on prune gives space back while runs go on. Until it
    is done nobody can write, and it needs free disk, twice what the database has.
    """
    from liteflow.storage.sizes import file_bytes, vacuum

    history = open_history(db_path)
    path = history.database.path
    if not history.database.is_file:
        vacuum(history.database)  # raises, and says what the server does
    if not force:
        for run in history.runs(state=["queued", "running"]):
            if run.owner is not None and not is_interrupted(run):
                raise click.UsageError(
                    f"{run.dag_id}/{run.run_id} is {run.state}, and could not write until it is done; wait for it, or "
                    f"use --force"
                )
    before = file_bytes(path) + file_bytes(f"{path}-wal")
    echo("writing it anew; nobody else can write until that is done", err=True)
    vacuum(history.database)
    echo(f"the file has {bytes_text(file_bytes(path))}, it had {bytes_text(before)}", err=True)
