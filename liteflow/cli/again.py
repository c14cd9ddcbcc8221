"""Commands that run something once more: `rerun`, `replay`, `backfill`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from liteflow.cli import completing
from liteflow.cli.common import (
    db_option,
    echo,
    examples,
    executor_option,
    iso,
    json_option,
    open_history,
    print_json,
    print_table,
    run_document,
    task_and_index,
)
from liteflow.cli.dagfile import given_params, load_dag, load_with_others, moment_of, run_id_of
from liteflow.cli.stopping import signals_that_raise, stopped

if TYPE_CHECKING:
    from liteflow.execution.backfilling import Slot
    from liteflow.execution.replaying import Replay, Replayed


@examples(
    "liteflow rerun etl.py --from nightly-2026-01-02",
    "liteflow rerun etl.py --from latest --only-failed",
    "liteflow rerun flows.py:etl --from etl --param day=2026-01-03",
)
@click.command("rerun")
@click.argument("file", metavar="FILE[:DAG_ID]", shell_complete=completing.files)
@click.option(
    "--from",
    "from_run",
    metavar="RUN",
    required=True,
    help="The run to repeat; `latest` for the newest.",
    shell_complete=completing.runs_to_resume,
)
@click.option("--only-failed", is_flag=True, help="Begin with what succeeded there, and run the rest.")
@click.option("--param", "params", multiple=True, metavar="K=V", help="Another value than that run had.")
@click.option("--run-id", metavar="ID", help="Makes it idempotent: a run of this id that is over is not run again.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Tasks at a time; default the usable CPUs.")
@executor_option
@click.option("--quiet", "-q", is_flag=True, help="Show nothing on stderr while it runs.")
@db_option
@json_option
def rerun_command(
    file: str,
    from_run: str,
    only_failed: bool,
    params: tuple[str, ...],
    run_id: str | None,
    workers: int | None,
    executor: str | None,
    quiet: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Run a dag once more as an earlier run had it, as a new run. Exit 0 if it succeeded, 1 if it failed.

    It has the logical date and params of that run, and `show` says where it comes from. With --only-failed it begins
    with the values of what succeeded there (`success (reused)`), and runs what went wrong, what is new to the dag or
    wired or mapped in another way, and everything below these. A change inside a function is not noticed.
    """
    if only_failed and params:
        raise click.UsageError("the values of a run belong to its params: --only-failed and --param do not go together")
    dag, others = load_with_others(file)
    if db_path is not None:
        dag.db_path = db_path
    given = given_params(dag, params)
    begin = partial(dag.rerun, run_id_of(dag, from_run), only_failed=only_failed, params=given, run_id=run_id)
    run = _unless_stopped(
        partial(begin, max_workers=workers, executor=executor, dags=others, progress=False if quiet else None)
    )
    if as_json:
        print_json(run_document(run))
    else:
        echo(f"{run.dag_id}/{run.run_id} {run.state}")
    sys.exit(0 if run.state == "success" else 1)


@examples(
    "liteflow replay etl.py etl load",
    "liteflow replay etl.py nightly-2026-01-02 'load[17]' --pdb",
)
@click.command("replay")
@click.argument("file", metavar="FILE[:DAG_ID]", shell_complete=completing.files)
@click.argument("run", metavar="RUN", shell_complete=completing.runs)
@click.argument("task", metavar="TASK", shell_complete=completing.tasks)
@click.option("--pdb", "debug", is_flag=True, help="Drop into the debugger where the task raises.")
@click.option("--try", "try_number", type=click.IntRange(min=1), metavar="N", help="Which try it is told to be.")
@db_option
def replay_command(file: str, run: str, task: str, debug: bool, try_number: int | None, db_path: str | None) -> None:
    """Run one task of a run in this process, with its exact inputs. Exit 0 if it went well, 1 if it raised.

    The function is the one that FILE has now; its arguments, params and context are those of the run. Nothing is
    recorded: no state, no XCom, no log, and no retry, timeout or callback follows. What the task itself does to the
    world it does again. Its inputs are decoded, pickles too: only with a database that you trust.
    """
    from liteflow.execution.replaying import prepare_replay, replay

    dag = load_dag(file)
    if db_path is not None:
        dag.db_path = db_path
    found = open_history(None if dag.db_path is None else str(dag.db_path)).find_run_of(dag.dag_id, run)
    task_id, map_index = task_and_index(task)
    ready = prepare_replay(dag, found, task_id, map_index, try_number=try_number)
    if ready.differences:
        echo(f"the dag is not what the run began with: {ready.differences}", err=True)
    echo(f"replaying {task} of {found.dag_id}/{found.run_id}, where it is {ready.state}", err=True)
    done = replay(found, ready, _tell_traceback)
    _tell_result(ready, done)
    if done.state != "failed":
        return
    if debug and done.exception is not None and done.exception.__traceback__ is not None:
        import pdb

        pdb.post_mortem(done.exception.__traceback__)
    sys.exit(1)


def _tell_traceback(text: str) -> None:
    for line in text.removesuffix("\n").split("\n"):
        echo(line, err=True)


MOST_OF_A_RESULT = 2000
"""Characters of a result that are shown."""


def _tell_result(ready: Replay, done: Replayed) -> None:
    """What came of it, and whether that is what is recorded."""
    if done.state == "failed":
        echo(f"failed: {done.error}", err=True)
    elif done.state != "success":
        echo(f"{done.state}{f': {done.error}' if done.error else ''}")
    elif "return_value" not in done.xcoms:
        echo("returned None")
    for key, value in done.xcoms.items():
        what = "returned" if key == "return_value" else f"pushed {key!r}, which is not stored:"
        echo(f"{what} {_shown(*value)}")
    recorded = {key: value for key, value in ready.recorded.items() if key in done.xcoms or key == "return_value"}
    if done.state == "failed" or not (recorded or done.xcoms):
        return
    different = sorted(key for key in {*recorded, *done.xcoms} if recorded.get(key) != done.xcoms.get(key))
    if not recorded:
        echo("nothing is recorded to compare it with", err=True)
    elif not different:
        echo("the same as is recorded", err=True)
    for key in different if recorded else ():
        from liteflow.storage.xcoms import preview

        now = preview(*recorded[key], length=MOST_OF_A_RESULT) if key in recorded else "nothing"
        echo(f"not what is recorded under {key!r}: {now}", err=True)


def _shown(encoding: str, data: bytes) -> str:
    """The value as Python writes it, so far as there is room."""
    from reprlib import Repr

    from liteflow.storage.xcoms import decode

    short = Repr()
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = 50
    short.maxstring = short.maxother = short.maxlong = 500
    text = short.repr(decode(encoding, data))
    return text if len(text) <= MOST_OF_A_RESULT else text[: MOST_OF_A_RESULT - 3] + "..."


@examples(
    "liteflow backfill etl.py --from 2026-01-01 --to 2026-01-31 --dry-run",
    "liteflow backfill etl.py --from 2026-01-01 --to 2026-01-31 --max-active 4",
    "liteflow backfill etl.py --from 2026-01-01T00:00 --to 2026-01-01T18:00 --step 6h --rerun-failed",
)
@click.command("backfill")
@click.argument("file", metavar="FILE[:DAG_ID]", shell_complete=completing.files)
@click.option("--from", "first", metavar="DATE", required=True, help="The first date, ISO 8601; UTC unless it says.")
@click.option("--to", "last", metavar="DATE", required=True, help="The last date; it is one of them.")
@click.option("--step", default="1d", show_default=True, help="From one date to the next: 30m, 6h, 1d, 1w.")
@click.option(
    "--max-active", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Runs at a time."
)
@click.option("--param", "params", multiple=True, metavar="K=V", help="A param of the runs; V as JSON or as text.")
@click.option("--rerun-failed", is_flag=True, help="Try runs that failed once more, as --resume does.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Tasks at a time; default the usable CPUs.")
@executor_option
@click.option("--quiet", "-q", is_flag=True, help="Show nothing on stderr while it runs.")
@db_option
@json_option
def backfill_command(
    file: str,
    first: str,
    last: str,
    step: str,
    max_active: int,
    params: tuple[str, ...],
    rerun_failed: bool,
    dry_run: bool,
    workers: int | None,
    executor: str | None,
    quiet: bool,
    db_path: str | None,
    as_json: bool,
) -> None:
    """Run a dag for each date of a range. Exit 0 if all of these runs have succeeded, 1 if one has not.

    The runs are called backfill__DATE, so the same command again goes on where it was: a date whose run is over is
    left alone, one whose run was interrupted goes on. Ctrl-C leaves what is not finished resumable.
    """
    from liteflow.execution.backfilling import backfill, dates_between, parse_step, plan_backfill, unwell

    dates = _dates(
        dates_between, moment_of(first, "--from"), moment_of(last, "--to"), _checked(parse_step, "--step", step)
    )
    dag, others = load_with_others(file)
    if db_path is not None:
        dag.db_path = db_path
    given = given_params(dag, params)
    if dry_run:
        _tell_slots(dag.dag_id, plan_backfill(dag, dates, rerun_failed=rerun_failed), as_json, dry_run=True)
        return
    tell = None if quiet else _Progress(len(dates))
    slots = _unless_stopped(
        partial(
            backfill,
            dag,
            dates,
            params=given,
            max_active=max_active,
            rerun_failed=rerun_failed,
            max_workers=workers,
            executor=executor,
            dags=others,
            progress=tell,
        ),
        "the same command again goes on where it was",
    )
    _tell_slots(dag.dag_id, slots, as_json, dry_run=False)
    sys.exit(1 if any(unwell(slots)) else 0)


class _Progress:
    """A line for each date when something has become of it."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __call__(self, slot: Slot) -> None:
        self._done += 1
        what = f"refused: {slot.error}" if slot.error else slot.state or ""
        before = ", as before" if slot.action == "skip" else ""
        echo(f"[{self._done}/{self._total}] {slot.run_id} {what}{before}", err=True)


_WORDS = {
    "run": ("to run", "ran"),
    "resume": ("to go on with", "went on"),
    "wait": ("to wait for", "ran elsewhere"),
    "skip": ("nothing to do", "was over"),
    "refused": ("refused", "refused"),
}
"""What is said of a date before and after."""


def _tell_slots(dag_id: str, slots: list[Slot], as_json: bool, *, dry_run: bool) -> None:
    if as_json:
        print_json(
            {
                "dag_id": dag_id,
                "dry_run": dry_run,
                "runs": [
                    {
                        "run_id": slot.run_id,
                        "logical_date": iso(slot.logical_date),
                        "action": slot.action,
                        "state": slot.state,
                        "error": slot.error,
                    }
                    for slot in slots
                ],
            }
        )
        return
    rows = [[slot.run_id, _state_of(slot), _WORDS[slot.action][0 if dry_run else 1]] for slot in slots]
    print_table(["RUN", "STATE", "WHAT"], rows, empty="", state_column=1)


def _state_of(slot: Slot) -> str:
    """The word for where a run stands, as `runs` has it: nobody drives one that is to be gone on with."""
    return "interrupted" if slot.action == "resume" and slot.state == "running" else slot.state or "-"


def _checked(parse: Callable[[str], Any], option: str, text: str) -> Any:
    try:
        return parse(text)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _dates(between: Callable[..., Any], first: Any, last: Any, step: Any) -> Any:
    try:
        return between(first, last, step)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param_hint="--from, --to") from None


def _unless_stopped(begin: Callable[[], Any], how_to_go_on: str | None = None) -> Any:
    """What `begin` returns; a signal ends the command with its own exit code."""
    from liteflow.execution.stopping import Terminated

    try:
        with signals_that_raise():
            return begin()
    except KeyboardInterrupt as error:
        if how_to_go_on is not None:
            echo(how_to_go_on, err=True)
        stopped(143 if isinstance(error, Terminated) else 130)
