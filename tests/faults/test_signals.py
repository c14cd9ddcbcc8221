"""Signals at random moments of a run's life, through a pseudo-terminal: exit code, states, terminal, nothing left."""

from __future__ import annotations

import random
import secrets
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from liteflow.cli.common import is_interrupted
from liteflow.execution.service import INTERRUPT_GRACE_S
from liteflow.storage.history import DagRun, open_history
from tests.conftest import Script, command, liteflow, states_of, wait_until
from tests.crash.harness import is_full, report, rounds, seeded, wait_until_none_is_left
from tests.crash.invariants import check_invariants
from tests.faults import signals_flow
from tests.faults.signals_terminal import CTRL_BACKSLASH, CTRL_C, HIDE_CURSOR, Terminal

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and makes terminals: Linux only"),
    pytest.mark.timeout(4 * 3600 if is_full() else 300),
]

MOMENTS = rounds(3, 200)
AT_ONCE = 3
"""Cases that go on at the same time: they mostly wait."""

FLOW = str(Path(signals_flow.__file__))
COMMAND = ("-m", "liteflow", "run", FLOW, "--workers", "2")

STARTED, OVER = "run manual__", "success in"
"""What the display says when the run is there, and when it is over."""

WORK_S = 0.15
ENDLESS_S = 60.0
START_S = 1.0
"""About how long a program takes until its run is there."""
RUN_S = 3 * WORK_S
END_S = 0.3
"""How long after the end of its run a program may still be there."""
ANCHOR_S = 30.0

PYTHON_DOES_NOT_START = ("Fatal Python error: init_", "Could not import runpy")
"""What Python says, and ends with 1, when Ctrl-C comes before it has begun with any program."""

PYTHON_IGNORES_IT = "_get_module_lock"
"""Where an import has a callback whose exceptions Python only prints: a Ctrl-C that comes in there is lost."""

HANG_S = 10.0
"""Longer than the grace that what runs has, and what killing it takes."""


class Moment(NamedTuple):
    """So long after the text was shown, or after the start of the program."""

    anchor: str | None
    delay_s: float


class Stopped(NamedTuple):
    """What there was to see when the program was over."""

    directory: Path
    status: int
    took_s: float
    """How long after the last signal."""
    shown: str
    was_killed: bool

    @property
    def db_path(self) -> Path:
        return self.directory / signals_flow.DB


class Way(NamedTuple):
    """A way to stop a program."""

    arguments: tuple[str, ...]
    number: signal.Signals
    send: Callable[[Terminal], None]
    kills: bool = False
    """Whether the program has no say in it."""
    shows_traceback: bool = False
    """Whether Python may say where it was, as it does for any script."""


def _press_ctrl_c(terminal: Terminal) -> None:
    terminal.press(CTRL_C)


def _send_sigterm(terminal: Terminal) -> None:
    terminal.send(signal.SIGTERM)


CTRL_C_ONCE = Way(COMMAND, signal.SIGINT, _press_ctrl_c)
SIGTERM = Way(COMMAND, signal.SIGTERM, _send_sigterm)
HANG_UP = Way(COMMAND, signal.SIGHUP, Terminal.hang_up, kills=True)
SIGQUIT = Way(COMMAND, signal.SIGQUIT, lambda terminal: terminal.press(CTRL_BACKSLASH), kills=True)
IN_A_SCRIPT = Way((FLOW,), signal.SIGINT, _press_ctrl_c, shows_traceback=True)


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param((CTRL_C_ONCE,), id="Ctrl-C"),
        pytest.param((SIGTERM,), id="SIGTERM"),
        pytest.param((HANG_UP, SIGQUIT), id="SIGHUP or SIGQUIT"),
        pytest.param((IN_A_SCRIPT,), id="Ctrl-C of a script"),
    ],
)
def test_a_signal_at_a_random_moment_leaves_a_run_that_can_be_resumed(
    request: pytest.FixtureRequest, tmp_path: Path, ways: tuple[Way, ...]
) -> None:
    name = request.node.callspec.id
    dice = seeded(f"signals {name}")

    def stop_and_resume(number: int, moment: Moment) -> None:
        way = ways[number % len(ways)]
        stopped = _stop(tmp_path / str(number), way, moment, work_s=WORK_S)
        with _explained(stopped, moment):
            _check(stopped, way)
            _finish(stopped, on_command_line=number % 5 == 0)

    _at_random_moments(dice, (None, STARTED, OVER), stop_and_resume)
    report(f"{name} at random moments on a pseudo-terminal, then resume", MOMENTS)


def test_signals_after_the_first_kill_at_once_at_any_moment(tmp_path: Path) -> None:
    dice = seeded("signals again")
    pauses_s = [_pauses_s(dice) for _ in range(MOMENTS)]

    def stop_and_resume(number: int, moment: Moment) -> None:
        way = (CTRL_C_ONCE, SIGTERM)[number // 2 % 2]
        stopped = _stop(tmp_path / str(number), way, moment, pauses_s[number], work_s=ENDLESS_S)
        with _explained(stopped, moment, pauses_s[number]):
            assert stopped.took_s < INTERRUPT_GRACE_S, f"{stopped.took_s:.1f} s: it was not killed at once"
            _check(stopped, way)
            _finish(stopped, on_command_line=number % 5 == 0)

    _at_random_moments(dice, (None, STARTED), stop_and_resume)
    report("Ctrl-C or SIGTERM two or three times on a pseudo-terminal, then resume", MOMENTS)


def _pauses_s(dice: random.Random) -> list[float]:
    """Before the second signal and, perhaps, the third. The kernel makes one of two that come too soon, so the last of
    them is one that is heard."""
    soon = [0.0] if dice.random() < 0.3 else [0.002] if dice.random() < 0.5 else []
    return [*soon, dice.uniform(0.3, 0.6)]


def _at_random_moments(
    dice: random.Random, anchors: tuple[str | None, ...], case: Callable[[int, Moment], None]
) -> None:
    """By turns after the start of the program, and after the beginning and the end of its run."""
    moments = []
    for number in range(MOMENTS):
        anchor = anchors[number % len(anchors)]
        widths_s = {None: START_S + RUN_S, STARTED: RUN_S, OVER: END_S}
        moments.append(Moment(anchor, dice.uniform(0, widths_s[anchor])))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(case, number, moment) for number, moment in enumerate(moments)]:
            done.result()


def _stop(directory: Path, way: Way, moment: Moment, pauses_s: Sequence[float] = (), *, work_s: float) -> Stopped:
    """Start the program, and stop it then, and again after each pause."""
    directory.mkdir()
    mark = secrets.token_hex(8)
    environment = {"WORK_S": str(work_s), "LITEFLOW_DB": signals_flow.DB}
    terminal = Terminal(sys.executable, *way.arguments, directory=directory, mark=mark, **environment)
    try:
        if moment.anchor is not None:
            terminal.wait_for(moment.anchor, ANCHOR_S)
        time.sleep(moment.delay_s)
        sent_at = time.monotonic()
        way.send(terminal)
        for pause_s in pauses_s:
            time.sleep(pause_s)
            sent_at = time.monotonic()
            way.send(terminal)
        status = terminal.status(HANG_S)
        took_s = time.monotonic() - sent_at
        assert status is not None, f"{moment}: still there after {took_s:.1f} s\n{terminal.shown}"
        wait_until_none_is_left(mark)
        assert way.kills or not terminal.changes(), f"{moment}: {terminal.changes()}\n{terminal.shown}"
        return Stopped(directory, status, took_s, terminal.shown, status < 0)
    finally:
        terminal.close()


@contextmanager
def _explained(stopped: Stopped, *facts: object) -> Iterator[None]:
    """When the block fails, print what is known of the case."""
    try:
        yield
    except BaseException:
        print(f"{stopped.directory.name}: {facts}, status {stopped.status}\n{stopped.shown}")
        raise


def _check(stopped: Stopped, way: Way) -> None:
    """What must hold of a program that was stopped, before anybody goes on with its run."""
    run = _run_of(stopped.db_path)
    code = stopped.status if stopped.status >= 0 else 128 - stopped.status  # as the shell says it
    is_over = run is not None and run.state.is_terminal
    if any(text in stopped.shown for text in PYTHON_DOES_NOT_START):
        assert (run, code) == (None, 1)
    else:
        assert code in ((0, 128 + way.number) if is_over else (128 + way.number,)), code
        # Before main() nothing of ours is there to hear it: Python imports what that needs.
        is_pythons_own = not stopped.db_path.exists() and ", in main" not in stopped.shown
        is_pythons_own |= PYTHON_IGNORES_IT in stopped.shown
        assert way.shows_traceback or is_pythons_own or "Traceback" not in stopped.shown, "a traceback is shown"
    assert "Exception ignored" not in stopped.shown or PYTHON_IGNORES_IT in stopped.shown
    assert "Exception in thread" not in stopped.shown
    if way.kills:
        return
    if run is None:
        left = sorted(path.name for path in stopped.directory.glob(f"{signals_flow.DB}?*"))
        assert not left, f"there is no run, and {left} is left"
        return
    check_invariants(stopped.db_path, was_killed=False, all_over=False)
    if not is_over:
        _check_put_back(run)
    if "stopping: " in stopped.shown:
        assert is_over or f"--resume {run.run_id}" in stopped.shown
        assert not is_over or "is not finished" not in stopped.shown


def _check_put_back(run: DagRun) -> None:
    """What ran is queued again, and it is no retry that it was stopped."""
    assert is_interrupted(run), run
    for one in run.task_instances():
        assert str(one.state) in ("pending", "queued", "success"), one
        if str(one.state) == "queued" and one.try_number:
            assert str(one.end_reason) == "cancelled", one
    assert not [one for one in run.tries() if str(one.end_reason) != "cancelled"]


def _finish(stopped: Stopped, *, on_command_line: bool) -> None:
    """Go on with the run or, if there is none, begin one: it succeeds, and nothing that had succeeded is done again."""
    before = _run_of(stopped.db_path)
    done = _successes(before)
    if on_command_line or before is None:
        resume = ("--resume", "latest") if before is not None else ()
        again = liteflow("run", FLOW, *resume, "--workers", "1", "--db", signals_flow.DB, cwd=stopped.directory)
        assert again.returncode == 0, again.stderr
    else:
        signals_flow.build(stopped.db_path).resume(before.run_id, max_workers=1, progress=False)
    run = _run_of(stopped.db_path)
    assert run is not None
    assert set(states_of(run).values()) == {"success"}, states_of(run)
    assert done.items() <= _successes(run).items(), "what had succeeded was done again"
    check_invariants(stopped.db_path, was_killed=stopped.status < 0)


def _run_of(db_path: Path) -> DagRun | None:
    """The one run of a database, if both are there."""
    if not db_path.exists() or not _has_tables(db_path):
        return None
    runs = open_history(db_path).runs()
    assert len(runs) <= 1, runs
    return runs[0] if runs else None


def _has_tables(db_path: Path) -> bool:
    with closing(sqlite3.connect(db_path)) as database:
        return bool(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _successes(run: DagRun | None) -> dict[str, int]:
    """Task ids of what has succeeded, with the number of its try."""
    instances = run.task_instances() if run is not None else []
    return {one.task_id: one.try_number for one in instances if str(one.state) == "success"}


PATIENT = """
import os, pathlib, time
from liteflow import Dag, task

def wait_for(name):
    while not pathlib.Path(name).exists():
        time.sleep(0.01)

@task
def quick():
    pathlib.Path("quick").touch()
    wait_for("go")

@task
def slow():
    pathlib.Path("slow").touch()
    try:
        wait_for("go on")
    except BaseException:
        pathlib.Path("ended").touch()
        raise

@task
def after():
    pass

with Dag("patient", db_path="patient.db") as dag:
    quick() >> after()
    slow()
"""


@contextmanager
def _patient(script: Callable[..., Script], mark: str) -> Iterator[Terminal]:
    """A run on a terminal with both of its tasks begun."""
    path = script(PATIENT).path
    command = ("-m", "liteflow", "run", str(path), "--workers", "2")
    terminal = Terminal(sys.executable, *command, directory=path.parent, mark=mark)
    try:
        wait_until((path.parent / "quick").exists, "the quick task runs")
        wait_until((path.parent / "slow").exists, "the slow task runs")
        yield terminal
    finally:
        terminal.close()


def test_after_one_ctrl_c_what_runs_may_finish_within_the_grace(script: Callable[..., Script], tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with _patient(script, mark) as terminal:
        terminal.wait_for(HIDE_CURSOR, ANCHOR_S)
        assert HIDE_CURSOR in terminal.shown, "the live display is not on"
        terminal.press(CTRL_C)
        terminal.wait_for(f"what runs may go on for {INTERRUPT_GRACE_S:g} s", ANCHOR_S)
        (tmp_path / "go").touch()
        assert terminal.status(INTERRUPT_GRACE_S + HANG_S) == 130, terminal.shown
    assert (tmp_path / "ended").exists(), "what took longer was told to end, and could clean up"
    check_invariants(tmp_path / "patient.db", mark=mark, was_killed=False, all_over=False)
    run = open_history(tmp_path / "patient.db").runs()[0]
    assert states_of(run) == {"quick": "success", "slow": "queued", "after": "queued"}
    assert run.task_instance("after").try_number == 0, "nothing more is begun"
    assert str(run.task_instance("slow").end_reason) == "cancelled"
    assert "interrupted" in command("runs", "--db", "patient.db", cwd=tmp_path).stdout
    (tmp_path / "go on").touch()
    resumed = liteflow("run", "my_dag.py", "--resume", "latest", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert set(states_of(run).values()) == {"success"}


def test_a_second_ctrl_c_kills_without_asking(script: Callable[..., Script], tmp_path: Path) -> None:
    mark = secrets.token_hex(8)
    with _patient(script, mark) as terminal:
        terminal.press(CTRL_C)
        terminal.wait_for("once more to kill it now", ANCHOR_S)
        terminal.press(CTRL_C)
        assert terminal.status(HANG_S) == 130, terminal.shown
    assert not (tmp_path / "ended").exists(), "it was told to end first"
    check_invariants(tmp_path / "patient.db", mark=mark, was_killed=False, all_over=False)
    run = open_history(tmp_path / "patient.db").runs()[0]
    assert states_of(run) == {"quick": "queued", "slow": "queued", "after": "pending"}
