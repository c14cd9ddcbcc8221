"""What a shell is offered for the arguments of commands: ids from the database that the line names, and files.

Nothing here may fail or take long: somebody is typing. See `storage/completion.py`.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

Items = list[CompletionItem[str]]


def _db_path(ctx: click.Context) -> str | None:
    """The database that the line names, as far as it is typed."""
    found = ctx.params.get("db_path")
    return found if isinstance(found, str) else None


def _items(values: list[str]) -> Items:
    return [CompletionItem(value) for value in values]


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Files; the shell knows them."""
    return [CompletionItem(incomplete, type="file")]


def dag_ids(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Ids of dags."""
    from liteflow.storage import completion

    return _items(completion.dag_ids(_db_path(ctx), incomplete))


def runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """What may stand for RUN."""
    from liteflow.storage import completion

    return _items(completion.runs(_db_path(ctx), incomplete))


def runs_or_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """What may stand for RUN, or the file of a dag."""
    return [*runs(ctx, param, incomplete), *files(ctx, param, incomplete)]


def runs_to_resume(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """The same of the dag that the line names, by its file or its id, and `latest`."""
    from liteflow.storage import completion

    # An option that has no value yet keeps click from giving the words around it to the arguments.
    words = [ctx.params.get("file"), ctx.params.get("identifier"), *ctx.args]
    subject = next((word for word in words if isinstance(word, str)), None)
    latest = ["latest"] if "latest".startswith(incomplete) else []
    return _items([*latest, *completion.runs(_db_path(ctx), incomplete, subject)])


def tasks(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Ids of tasks of the run that stands before."""
    from liteflow.storage import completion

    run = ctx.params.get("run")
    return _items(completion.task_ids(_db_path(ctx), run, incomplete)) if isinstance(run, str) else []


def executors(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Names of executors, and how that of a cluster begins."""
    from liteflow.authoring.options import PROCESSES, THREADS

    return _items([name for name in (PROCESSES, THREADS, "dask://") if name.startswith(incomplete)])


def pools(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Names of pools."""
    from liteflow.storage import completion

    return _items(completion.pool_names(_db_path(ctx), incomplete))
