"""The command line: thin commands that parse, call and print. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or input, 3 the database cannot be used, 4 not finished but
resumable, 130 and 143 stopped by a signal. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from liteflow.cli.common import echo, printable
from liteflow.errors import LiteflowError

# Name of the command: the module that has it, under the same name with "_command" behind it, and what `--help` says
# of it, so that a list of commands need not import them all. A test holds the words and the commands' own together.
_COMMANDS = {
    "backfill": ("liteflow.cli.again", "Run a dag for each date of a range."),
    "cancel": ("liteflow.cli.change", "Ask for the end of a run, or of one of its tasks."),
    "check": ("liteflow.cli.check", "Say what keeps a dag file from Airflow, or from liteflow."),
    "clear": ("liteflow.cli.clear", "Open task instances of a run again, to be run once more."),
    "completion": ("liteflow.cli.completion", "Print what makes a shell complete commands, ids and files."),
    "dags": ("liteflow.cli.listing", "List the dags that have run in the database."),
    "db": ("liteflow.cli.db", "Create, upgrade, back up, measure and check the database."),
    "delete": ("liteflow.cli.change", "Delete a run, or a dag with all of its runs."),
    "doctor": ("liteflow.cli.doctor", "Look at the database and what is around it, and say what to do."),
    "logs": ("liteflow.cli.logs", "Print the log of a run or of one of its tasks."),
    "mark": ("liteflow.cli.clear", "Say that a task is success, failed or skipped."),
    "plan": ("liteflow.cli.plan", "Say what a run of a dag would do, without running it."),
    "pools": ("liteflow.cli.pools", "List and change the pools, slots that tasks share."),
    "prune": (
        "liteflow.cli.prune",
        "Delete old runs, and give the space back to the file system.",
    ),
    "replay": ("liteflow.cli.again", "Run one task of a run in this process, with its exact inputs."),
    "rerun": ("liteflow.cli.again", "Run a dag once more as an earlier run had it, as a new run."),
    "run": ("liteflow.cli.run", "Run a dag of a Python file once, or go on with a run."),
    "runs": ("liteflow.cli.listing", "List runs, the newest first."),
    "scaffold": ("liteflow.cli.scaffold", "Write a dag file to start from."),
    "show": ("liteflow.cli.show", "Show a run and each of its task instances."),
    "visualize": ("liteflow.cli.visualize", "Draw a run, or a dag from its file."),
    "why": ("liteflow.cli.why", "Say why the task instances of a run are where they are."),
    "watch": ("liteflow.cli.watch", "Watch a run that another process drives, until it is over."),
    "xcom": ("liteflow.cli.xcom", "Print the values that a task handed on."),
}


COMPLETE = "_LITEFLOW_COMPLETE"
"""The variable in which a shell says that it wants completions, and which shell it is."""


class CommandError(click.ClickException):
    """An expected error: one line, and the exit code that goes with it."""

    def __init__(self, error: LiteflowError) -> None:
        super().__init__(str(error))
        vars(self)["exit_code"] = error.exit_code  # click declares it for the class


@contextmanager
def _errors_for_a_terminal() -> Iterator[None]:
    """What an error of click quotes may come from a stranger: it is spelled out before it is shown."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # a page of our own
    except click.ClickException as error:
        vars(error)["message"] = printable(error.message)  # click declares it final
        raise


def _show_traceback(error: BaseException) -> None:
    for entry in traceback.format_exception(error):
        for line in entry.removesuffix("\n").split("\n"):
            echo(line, err=True)


class Commands(click.Group):
    """Finds commands when they are asked for, and turns liteflow's errors into one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in sorted(_COMMANDS.items())])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from liteflow.authoring.ids import did_you_mean

            raise click.UsageError(f"{error.message}{did_you_mean(args[0], _COMMANDS)}", ctx) from None

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _errors_for_a_terminal():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_for_a_terminal():
            try:
                return super().invoke(ctx)
            except LiteflowError as error:
                if ctx.params.get("debug"):
                    _show_traceback(error)
                raise CommandError(error) from error
            except KeyboardInterrupt:  # click would end with 1
                sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(None, "--version", package_name="liteflow", prog_name="liteflow")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Run dags of Python functions and look at what they did.

    Everything is kept in one SQLite file: --db FILE, else $LITEFLOW_DB, else liteflow.db here. A RUN is DAG/RUN, a run
    id, a dag id (its latest run), or a unique beginning of a run id.
    """


def main() -> None:
    """The entry point."""
    if COMPLETE in os.environ:
        importlib.import_module("liteflow.cli.completion").answer(cli)
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal does not have is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="liteflow")
    except Exception as error:  # a mistake of ours, whose text may hold anything
        _show_traceback(error)
        sys.exit(1)
