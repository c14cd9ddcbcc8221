"""Tasks that raise, return or do what nobody expects: it concerns themselves only, and the next task in their slot
finds everything in order."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from liteflow import Dag, task
from liteflow.operators.python import PythonOperator
from tests.conftest import states_of

pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.skipif(sys.platform == "win32", reason="slots need a POSIX system"),
]


class NeedsArguments(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("needs arguments")


class RaisesInStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class ExitsInStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class RaisesInRepr(Exception):
    def __repr__(self) -> str:
        raise ZeroDivisionError


class StrIsNoText(Exception):
    def __str__(self) -> str:
        return 1  # type: ignore[return-value]


class RaisesInReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class BaseOnly(BaseException):
    pass


class RaisesInGetattr(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise AttributeError(name)


def _with_lock() -> Exception:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def _in_a_circle() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def _deep_causes() -> Exception:
    error = ValueError("0")
    for number in range(3000):
        below = error
        error = ValueError(str(number))
        error.__cause__ = below
    return error


def _local() -> Exception:
    class Local(Exception):
        pass

    return Local("made in a function")


ODD_EXCEPTIONS: dict[str, Callable[[], BaseException]] = {
    "needs_arguments": lambda: NeedsArguments(1, 2),
    "raises_in_str": RaisesInStr,
    "exits_in_str": ExitsInStr,
    "raises_in_repr": lambda: RaisesInRepr("x"),
    "str_is_no_text": StrIsNoText,
    "raises_in_reduce": RaisesInReduce,
    "raises_in_getattr": RaisesInGetattr,
    "base_only": BaseOnly,
    "with_lock": _with_lock,
    "in_a_circle": _in_a_circle,
    "deep_causes": _deep_causes,
    "local": _local,
    "empty": lambda: Exception(),
    "keyboard_interrupt": KeyboardInterrupt,
    "generator_exit": GeneratorExit,
    "system_exit": lambda: SystemExit(0),
    "system_exit_of_text": lambda: SystemExit("text"),
    "system_exit_of_a_set": lambda: SystemExit({1}),
    "stop_iteration": StopIteration,
    "stop_async_iteration": StopAsyncIteration,
    "memory_error": MemoryError,
    "recursion_error": RecursionError,
    "broken_pipe": lambda: BrokenPipeError(errno.EPIPE, "pipe"),
    "connection_reset": ConnectionResetError,
    "eof": EOFError,
    "os_error": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/nowhere"),
    "group": lambda: ExceptionGroup("group", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])]),
    "base_group": lambda: BaseExceptionGroup("group", [KeyboardInterrupt()]),
    "huge": lambda: ValueError("x" * 3_000_000),
    "surrogates": lambda: ValueError("\ud800 \x00 \x1b[31m"),
    "many_lines": lambda: ValueError("line\n" * 10_000),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "not_to_be_retried_notes": lambda: _noted(),
    "warning": lambda: UserWarning("raised"),
    "sqlite": lambda: sqlite3.OperationalError("database is locked"),
}


def _noted() -> Exception:
    error = ValueError("noted")
    error.__notes__ = [1, None]  # type: ignore[list-item]
    return error


def throw(name: str) -> None:
    raise ODD_EXCEPTIONS[name]()


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in pickling")


class FailsToUnpickle:
    def __reduce__(self) -> Any:
        return int, ("no number",)


class ExitsInUnpickling:
    def __reduce__(self) -> Any:
        return sys.exit, (5,)


class DiesInUnpickling:
    def __reduce__(self) -> Any:
        return os._exit, (6,)


def _deep_list() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


ODD_RESULTS: dict[str, Callable[[], Any]] = {
    "fails_to_pickle": FailsToPickle,
    "fails_to_unpickle": FailsToUnpickle,
    "exits_in_unpickling": ExitsInUnpickling,
    "dies_in_unpickling": DiesInUnpickling,
    "deep_list": _deep_list,
    "lock": threading.Lock,
    "generator": lambda: (number for number in range(3)),
    "frame": sys._getframe,
    "connection": lambda: sqlite3.connect(":memory:"),
    "function_in_function": lambda: lambda: lambda: 1,
}


def give(name: str) -> Any:
    return ODD_RESULTS[name]()


def recurse() -> None:
    recurse()


def exit_politely() -> None:
    sys.exit(3)


def exit_at_once() -> None:
    os._exit(4)


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_its_group() -> None:
    os.killpg(0, signal.SIGKILL)


def close_everything() -> None:
    os.closerange(3, 200)


def overrun_cpu_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


def write_into_every_descriptor() -> None:
    for fd in map(int, os.listdir("/dev/fd")):
        if fd < 3:
            continue
        try:
            os.write(fd, b"garbage" * 10)
        except OSError:
            continue


BLASTS = {
    recurse: "error",
    exit_politely: "error",
    exit_at_once: "its process ended with exit code 4",
    segfault: "its process was killed by SIGSEGV",
    abort: "its process was killed by SIGABRT",
    kill_itself: "its process was killed by SIGKILL",
    kill_its_group: "its process was killed by SIGKILL",
    close_everything: "crashed",
    write_into_every_descriptor: "crashed",
    overrun_cpu_limit: "its process was killed by SIGKILL",
}


@task
def bystander() -> int:
    return 1


def run_bombs(db: str, bombs: dict[str, Callable[[], Any]], *, workers: int = 2) -> Any:
    """Run them all in one dag beside tasks that do nothing wrong; every one of those succeeds, the bombs all fail."""
    with Dag("bombs", db_path=db) as dag:
        for name, bomb in bombs.items():
            PythonOperator(task_id=name, python_callable=bomb)
            bystander()
    run = dag.run(progress=False, max_workers=workers)
    states = states_of(run)
    assert {name: states[name] for name in bombs} == dict.fromkeys(bombs, "failed")
    assert not [one for one in run.task_instances() if one.task_id not in bombs and one.state != "success"]
    with closing(sqlite3.connect(db)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return run


class Throw:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> None:
        throw(self.name)


class Give(Throw):
    def __call__(self) -> Any:
        return give(self.name)


def test_odd_exceptions_fail_their_own_task_only(db: str) -> None:
    assert len(ODD_EXCEPTIONS) >= 30
    run = run_bombs(db, {name: Throw(name) for name in ODD_EXCEPTIONS})
    for name in ODD_EXCEPTIONS:
        instance = run.task_instance(name)
        assert instance.end_reason == "error", name
        assert len(instance.error.splitlines()) == 1, name


def test_results_that_cannot_be_stored_or_read_fail_their_own_task_only(db: str) -> None:
    run = run_bombs(db, {name: Give(name) for name in ODD_RESULTS})
    reasons = {name: run.task_instance(name).end_reason for name in ODD_RESULTS}
    assert reasons == {**dict.fromkeys(ODD_RESULTS, "error"), "dies_in_unpickling": "crashed"}


def test_tasks_that_take_their_process_down_fail_alone(db: str) -> None:
    run = run_bombs(db, {bomb.__name__: bomb for bomb in BLASTS})
    for bomb, said in BLASTS.items():
        instance = run.task_instance(bomb.__name__)
        assert said in (instance.end_reason, instance.error), bomb.__name__


# What a task changes in its process


def change_directory() -> None:
    os.chdir("/")


def change_environment() -> None:
    os.environ.clear()
    os.environ["MESS"] = "1"


def change_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def leave_an_alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def change_umask() -> None:
    os.umask(0o777)


def change_limits() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def lower_a_hard_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def change_priority() -> None:
    os.nice(5)


def close_standard_output() -> None:
    os.close(1)
    os.close(2)
    sys.stdout.close()


def leave_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leave_a_thread_that_spins() -> None:
    def spin() -> None:
        while True:
            time.sleep(0.001)

    threading.Thread(target=spin).start()


def leave_a_forked_child() -> None:
    if os.fork() == 0:
        os._exit(0)


MESSES = [
    change_directory,
    change_environment,
    change_signals,
    leave_an_alarm,
    change_umask,
    change_limits,
    lower_a_hard_limit,
    change_priority,
    close_standard_output,
    leave_a_thread,
    leave_a_thread_that_spins,
    leave_a_forked_child,
]


def look_around(rest_s: float = 0.0) -> dict[str, Any]:
    """What a task finds in its process."""
    threading.Event().wait(rest_s)
    print("heard")
    return {
        "directory": os.getcwd(),
        "environment": {name: value for name, value in os.environ.items() if name != "LITEFLOW_SLOT"},
        "handlers": [str(signal.getsignal(number)).partition(" at ")[0] for number in range(1, 32)],
        "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "umask": int(subprocess.run(["sh", "-c", "umask"], capture_output=True, check=True).stdout, 8),
        "limits": [resource.getrlimit(limit) for limit in range(10)],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_next_task_in_a_slot_finds_it_as_it_was(db: str) -> None:
    with Dag("messes", db_path=db) as dag:
        last = PythonOperator(task_id="first", python_callable=look_around)
        for mess in MESSES:
            messy = PythonOperator(task_id=mess.__name__, python_callable=mess)
            rest_s = 0.4 if mess is leave_an_alarm else 0.0
            after = PythonOperator(
                task_id=f"after_{mess.__name__}", python_callable=look_around, op_kwargs={"rest_s": rest_s}
            )
            last >> messy >> after
            last = after
    run = dag.run(progress=False, max_workers=1)
    assert run.state == "success", {one.task_id: one.error for one in run.task_instances() if one.error}
    first = run.xcom("first")
    for mess in MESSES:
        name = f"after_{mess.__name__}"
        assert run.xcom(name) == first, name
        assert [line.message for line in run.logs(name)] == ["heard"], name
