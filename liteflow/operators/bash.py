"""Commands of the shell: `BashOperator`, and what `@task.bash` runs."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from liteflow.authoring.context import command_output
from liteflow.authoring.options import BashOptions, bash_options
from liteflow.authoring.places import caller
from liteflow.authoring.task import BASH_EXTENSIONS
from liteflow.errors import LiteflowError, SkipTask
from liteflow.operators.base import BaseOperator

if TYPE_CHECKING:
    from liteflow.authoring.context import Context

_READ_BYTES = 1 << 16
_PIPE_BYTES = 1 << 20
"""No pipe holds more, unless root made it so."""


class CommandFailed(LiteflowError):
    """A command ended with another exit code than 0. Facts: `exit_code_of_command`."""

    exit_code_of_command: int


class BashOperator(BaseOperator):
    """Runs `bash_command` with bash; its output goes into the log line by line, its last line is the result.

    A command that ends with `.sh` or `.bash` is the name of a template file, beside the dag file or in the dag's
    `template_searchpath`, that holds it; with a space at its end it is a command.
    `env`: its environment, in place of the task's; with `append_env` laid over it. `cwd`: the directory, default the
    task's. `skip_on_exit_code` (99): a code, or several, that skips the task; any other but 0 fails it.
    `output_processor` makes the result out of the last line, which is read in `output_encoding` (UTF-8). With a timeout
    or cancel the command is killed, and all that it started.
    """

    template_fields = ("bash_command", "env", "cwd")
    template_ext = BASH_EXTENSIONS

    def __init__(
        self,
        *,
        bash_command: str,
        env: dict[str, str] | None = None,
        append_env: bool = False,
        skip_on_exit_code: int | Collection[int] | None = 99,
        cwd: str | None = None,
        output_processor: Callable[[str], Any] | None = None,
        output_encoding: str = "utf-8",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.bash_command = bash_command
        self.env = env
        self.cwd = cwd
        options = {
            "append_env": append_env,
            "skip_on_exit_code": () if skip_on_exit_code is None else skip_on_exit_code,
            "output_processor": output_processor,
            "output_encoding": output_encoding,
        }
        self.bash = bash_options(options, caller())

    def execute(self, context: Context) -> Any:
        assert self.bash is not None
        return run_command(self.bash_command, self.bash._replace(env=self.env, cwd=self.cwd))


def run_command(command: Any, options: BashOptions) -> Any:
    """Run a command with bash, its output on ours; returns its last line, as the output processor makes it.

    The shell stays in our process group, so that whoever kills the task kills it too; where the task has no process,
    it is killed here. What it leaves running in the
    background does not hold us up. Raises SkipTask and CommandFailed by its exit code.
    """
    if not isinstance(command, str) or not command.strip():
        raise TypeError(f"a bash task runs the text of a command, not {command!r:.200}")
    if options.cwd is not None and not os.path.isdir(options.cwd):
        raise FileNotFoundError(f"cwd {options.cwd!r} of the command is no directory")
    process = subprocess.Popen(
        [shutil.which("bash") or "sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=options.cwd,
        env=environment_for(options.env, append=options.append_env),
        start_new_session=_is_in_thread(),
    )
    last = _followed(process, options.output_encoding)
    code = process.wait()
    if code in options.skip_on_exit_code:
        raise SkipTask(f"the command ended with exit code {code}, which skips the task")
    if code:
        how = f"ended with exit code {code}" if code > 0 else f"was killed by a signal ({_name_of_signal(-code)})"
        raise CommandFailed(f"the command {how}", exit_code_of_command=code)
    return last if options.output_processor is None else options.output_processor(last)


def run_with_our_output(command: Sequence[str], env: Mapping[str, str] | None = None) -> int:
    """Run a program to its end, its output on ours; returns its exit code."""
    sys.stdout.flush()
    if not _is_in_thread():
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, env=env).returncode
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )
    _followed(process, "utf-8")
    return process.wait()


def _is_in_thread() -> bool:
    """Whether the task runs in a thread: what it starts has a session of its own, to be ended by us."""
    return command_output.get() is not None


def _followed(process: subprocess.Popen[bytes], encoding: str) -> str:
    """Pass its output on to its end; returns the last line. Kills it if that fails, or the task is over."""
    try:
        return _pass_on(process, encoding)
    except BaseException:
        if _is_in_thread():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdout is not None:
            if not _is_in_thread():  # else the task is over, and nothing of it is recorded any more
                _pass_rest_on(process.stdout.fileno())
            process.stdout.close()
        raise


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return str(number)


def environment_for(env: dict[str, Any] | None, *, append: bool = False) -> dict[str, str]:
    """The environment of a command: `env`, or the task's; with `append` the one laid over the other."""
    from liteflow.authoring.context import get_current_context

    context = get_current_context()
    around = dict(os.environ) if env is None or append else {}
    own = {name: str(value) for name, value in (env or {}).items()}
    # Airflow's names, so that a script that reads them works here too.
    facts = {
        "AIRFLOW_CTX_DAG_ID": context["dag_run"].dag_id,
        "AIRFLOW_CTX_DAG_RUN_ID": context["run_id"],
        "AIRFLOW_CTX_TASK_ID": context["ti"].task_id,
        "AIRFLOW_CTX_TRY_NUMBER": str(context["try_number"]),
        "AIRFLOW_CTX_LOGICAL_DATE": context["ts"],
    }
    return {**around, **facts, **own}  # a task's, not those of a task around its run


def _pass_on(process: subprocess.Popen[bytes], encoding: str) -> str:
    """Write the command's output on ours as it comes; returns its last line.

    Reads until the pipe closes or, since something in the background may hold the pipe open and even go on writing, to
    what was in the pipe when the command ended.
    """
    assert process.stdout is not None
    source = process.stdout.fileno()
    os.set_blocking(source, False)
    ready = select.poll()
    ready.register(source, select.POLLIN | select.POLLHUP)
    sys.stdout.flush()
    last = _LastLine()
    left: int | None = None
    while left is None or left > 0:
        if left is None and process.poll() is not None:
            left = _PIPE_BYTES
        piece = _read(source)
        if piece is None:
            if left is not None:
                break  # it was over before we looked, so that was all
            ready.poll(50)
            _write(b"")  # for a task that is over to hear of it
            continue
        if not piece:
            break
        left = None if left is None else left - len(piece)
        _write(piece)
        last.feed(piece)
    process.stdout.close()
    return last.text(encoding)


def _pass_rest_on(source: int) -> None:
    """Write on what a command that was killed had still written: no more than the pipe held, whoever else writes."""
    os.set_blocking(source, False)
    left = _PIPE_BYTES
    while left > 0 and (piece := _read(source)):
        left -= len(piece)
        _write(piece)


class _LastLine:
    """The last line of what comes in pieces, in time that grows with their length."""

    def __init__(self) -> None:
        self._whole = b""
        self._pieces: list[bytes] = []
        """Of the line that has not ended."""

    def feed(self, piece: bytes) -> None:
        lines, newline, rest = piece.rpartition(b"\n")
        if newline:
            _, newline, line = lines.rpartition(b"\n")
            self._whole = line if newline else b"".join([*self._pieces, line])
            self._pieces = []
        if rest:
            self._pieces.append(rest)

    def text(self, encoding: str) -> str:
        return (b"".join(self._pieces) or self._whole).decode(encoding, "backslashreplace").rstrip("\r")


def _read(fd: int) -> bytes | None:
    """What is there; empty at the end, None when there is nothing now."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None


def _write(data: bytes) -> None:
    """Write on descriptor 1, or to the log of a task that has none of its own."""
    output = command_output.get()
    if output is not None:
        output(data)
        return
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
