"""`liteflow db`: the database file itself: its schema, its backup, whether it is sound."""

from __future__ import annotations

import os
import sys

import click

from liteflow.cli.common import (
    ask,
    db_hint,
    db_option,
    echo,
    examples,
    home_relative,
    json_option,
    print_json,
    print_table,
)


@click.group("db")
def db_command() -> None:
    """Create, upgrade, back up and check the database."""


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
    from liteflow.storage.engine import database_url

    path = str(database_url(db_path).database)
    if not os.path.exists(path):
        raise DatabaseMissingError(
            f"{path}: no such database. Create it with: liteflow db upgrade{db_hint(path)}", path=path
        )
    found = schema.read_revision(path)
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
    """
    from liteflow.storage import schema

    echo(schema.backup(db_path, target))


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
