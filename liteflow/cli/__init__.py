"""The command line: thin commands that parse, call and print. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or input, 3 the database cannot be used, 4 not finished but
resumable, 130 and 143 stopped by a signal. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from liteflow.errors import LiteflowError

# Name of the command: module that has it, under the same name with "_command" behind it.
_COMMANDS = {
    "cancel": "liteflow.cli.change",
    "dags": "liteflow.cli.look",
    "db": "liteflow.cli.db",
    "delete": "liteflow.cli.change",
    "logs": "liteflow.cli.look",
    "run": "liteflow.cli.run",
    "runs": "liteflow.cli.look",
    "scaffold": "liteflow.cli.scaffold",
    "show": "liteflow.cli.look",
    "visualize": "liteflow.cli.look",
    "xcom": "liteflow.cli.look",
}


class CommandError(click.ClickException):
    """An expected error: one line, and the exit code that goes with it."""

    def __init__(self, error: LiteflowError) -> None:
        super().__init__(str(error))
        vars(self)["exit_code"] = error.exit_code  # click declares it for the class


class Commands(click.Group):
    """Finds commands when they are asked for, and turns liteflow's errors into one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found = getattr(importlib.import_module(_COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from liteflow.authoring.ids import did_you_mean

            raise click.UsageError(f"{error.message}{did_you_mean(args[0], _COMMANDS)}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LiteflowError as error:
            if ctx.params.get("debug"):
                raise
            raise CommandError(error) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(None, "--version", package_name="liteflow", prog_name="liteflow")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Run dags of Python functions and look at what they did.

    Everything is kept in one SQLite file: --db FILE, else $LITEFLOW_DB, else liteflow.db here. A RUN is DAG/RUN, a run
    id, a unique beginning of one, or a dag id (its latest run).
    """


def main() -> None:
    """The entry point."""
    cli(prog_name="liteflow")
