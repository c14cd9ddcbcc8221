"""`liteflow pools`: the named numbers of slots that tasks share."""

from __future__ import annotations

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    checked_name,
    db_hint,
    db_option,
    echo,
    examples,
    json_option,
    open_history,
    print_json,
    print_table,
)


@click.group("pools")
def pools_command() -> None:
    """List and change the pools, slots that tasks share."""


examples("liteflow pools list", "liteflow pools set warehouse 2")(pools_command)


def _check_name(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    return checked_name("pool", name)


@examples("liteflow pools list", "liteflow pools list --json --db etl.db")
@pools_command.command("list")
@db_option
@json_option
def list_command(db_path: str | None, as_json: bool) -> None:
    """List the pools with their slots, and how many of those running tasks have taken."""
    from liteflow.execution.liveness import is_alive
    from liteflow.storage.pools import list_pools
    from liteflow.storage.untrusted import checked

    history = open_history(db_path)
    path = history.database.path
    with history.read() as connection:
        found = [checked(pool) for pool in list_pools(connection, lambda owner: is_alive(path, owner))]
    if as_json:
        print_json([pool._asdict() for pool in found])
        return
    print_table(
        ["POOL", "SLOTS", "IN USE", "DESCRIPTION"],
        [[pool.name, str(pool.slots), str(pool.slots_in_use), pool.description or ""] for pool in found],
        empty=f"there are no pools; make one with: liteflow pools set NAME SLOTS{db_hint(path)}",
    )


@examples("liteflow pools set warehouse 2", 'liteflow pools set warehouse 4 --description "Connections" --db etl.db')
@pools_command.command("set")
@click.argument("name", callback=_check_name, shell_complete=completing.pools)
@click.argument("slots", type=click.IntRange(min=0, max=2**31 - 1))
@click.option("--description", help="What the pool is for; without it the pool keeps the one that it has.")
@db_option
def set_command(name: str, slots: int, description: str | None, db_path: str | None) -> None:
    """Make the pool NAME, or change it. With 0 SLOTS nothing runs in it.

    A missing database is created. What runs already goes on.
    """
    from liteflow.storage.pools import set_pool
    from liteflow.storage.schema import open_database

    with open_database(db_path, create=True, pooled=False).write(durable=True) as connection:
        set_pool(connection, name, slots, description)
    echo(f"pool {name} has {slots} slot{'' if slots == 1 else 's'}", err=True)


@examples("liteflow pools delete warehouse")
@pools_command.command("delete")
@click.argument("name", callback=_check_name, shell_complete=completing.pools)
@db_option
def delete_command(name: str, db_path: str | None) -> None:
    """Delete the pool NAME. What runs in it goes on."""
    from liteflow.authoring.ids import did_you_mean
    from liteflow.errors import NotFoundError
    from liteflow.storage.pools import delete_pool, list_pools

    database = open_history(db_path).database
    with database.write(durable=True) as connection:
        if not delete_pool(connection, name):
            known = [pool.name for pool in list_pools(connection)]
            raise NotFoundError(
                f"{database.path}: no pool {name!r}{did_you_mean(name, known)}. See: liteflow pools list"
                f"{db_hint(database.path)}",
                identifier=name,
            )
    echo(f"deleted pool {name}", err=True)
