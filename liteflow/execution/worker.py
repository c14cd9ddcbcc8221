"""The process in a slot: takes jobs one after the other, runs them, and sends back what came of them.

It imports no SQLAlchemy and never opens the database. Handed to it are a connection for messages, a pipe of tokens (one
number for each job that may begin; what the parent takes back out of it was never begun), a lifeline whose other end
only the parent holds, memory that it shares with the parent, in which it notes what it begins, and file descriptors 1
and 2, the output that the parent reads.

In the output, lines that begin with a secret mark say whose lines follow (`B` and `E` with a job's number, or both at
once) or carry a record of `logging` (`L`), so that everything stands in the order in which it was written.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from liteflow.authoring.dagfile import be_main_of_first_file, loading
from liteflow.errors import MissingMainGuard, TaskKilled
from liteflow.execution.begun import Begun, note_begun
from liteflow.execution.calling import Payload, Recipe, Result, call, describe_error, trace_of
from liteflow.execution.clock import clock_us, steady_s
from liteflow.execution.code import Code, load
from liteflow.execution.messages import Unpacker, pack
from liteflow.execution.nesting import note_database, note_task
from liteflow.execution.surroundings import Surroundings

LONGEST_RECORD_BYTES = 60_000
"""A line of a log record that is longer is sent in pieces."""

EXPIRY_POLL_S = 1.0
"""How often a worker looks whether its time is over: a machine that slept does not count that while it waits."""

TOKEN = struct.Struct("!Q")

BOOTSTRAP = (
    "import sys, os; fds = [int(x) for x in sys.argv[1:6]]; sys.argv = ['']; "
    "sys.path[:] = eval(os.environ.pop('LITEFLOW_WORKER_PATH')); "
    "from liteflow.execution.worker import main; main(*fds)"
)
"""What the interpreter of a slot is started with: it finds liteflow where the host found it."""


class Output:
    """The slot's output: marks and log records among what tasks write to descriptors 1 and 2 themselves."""

    def __init__(self, secret: str) -> None:
        self._mark = b"\x00" + secret.encode() + b" "
        self._fd = os.dup(1)  # survives a task that closes 1, and is not inherited by what a task starts
        self._stdout: Any = sys.stdout
        self._stderr: Any = sys.stderr
        self._ended: int | None = None
        """The job whose end is not marked yet."""

    def begin(self, number: int) -> None:
        """Mark that the lines of job `number` begin and, if that is not said yet, that those of the one before end.

        Of what marks, one thread at a time.
        """
        if self._ended is None:
            self._write(self._mark + b"B%d\n" % number)
        else:
            ended, self._ended = self._ended, None
            self._write(self._mark + b"E%d B%d\n" % (ended, number))

    def end(self, number: int) -> None:
        """Have the end of the lines of job `number` marked, by the next `begin` or `mark_end`."""
        self._ended = number

    def mark_end(self) -> None:
        """Mark the end that is not marked yet, if there is one."""
        if self._ended is not None:
            ended, self._ended = self._ended, None
            self._write(self._mark + b"E%d\n" % ended)

    def record(self, level: int, logger: str, text: str) -> None:
        """A record of `logging`: each of its lines as one line of the output."""
        head = self._mark + f"L{level} {logger} ".encode("utf-8", "backslashreplace")
        lines = text.encode("utf-8", "backslashreplace").split(b"\n")
        self._flush()
        for line in lines:
            for start in range(0, len(line) or 1, LONGEST_RECORD_BYTES):
                self._write(head + line[start : start + LONGEST_RECORD_BYTES] + b"\n")

    def restore(self) -> None:
        """Flush what a task printed, and undo what it did to the standard streams."""
        self._flush()
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
            self._flush()
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)
        if self._stdout.closed:
            sys.stdout = self._stdout = _text_stream(1)
        if self._stderr.closed:
            sys.stderr = self._stderr = _text_stream(2)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                continue  # the task closed it or put something else there; descriptors 1 and 2 are restored below

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def _text_stream(fd: int) -> io.TextIOWrapper:
    """A standard stream like the interpreter's own, for one that a task closed."""
    return open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


class RecordHandler(logging.Handler):
    """Sends every record of `logging` into the output with its level and logger."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._output.record(record.levelno, "_".join(record.name.split()), self.format(record))
        except Exception:
            self.handleError(record)


class Worker:
    """The loop of a slot's process."""

    def __init__(
        self, connection: socket.socket, tokens: int, begun: Begun, output: Output, handler: RecordHandler
    ) -> None:
        self._connection = connection
        self._begun = begun
        self._handler = handler
        self._tokens = tokens
        self._waiting = select.poll()  # select() knows no descriptor above 1023, and a host may have more open
        self._waiting.register(tokens, select.POLLIN)
        self._output = output
        self._unpacker = Unpacker()
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._codes: dict[int, Code] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._recipes: dict[int, Recipe] = {}
        self._receiving = threading.Lock()
        """Held by whoever reads messages: the loop or, while a task runs, one of its threads that asks something."""
        self._sending = threading.Lock()
        """Held while marks and messages are kept or sent: a thread that a task left may ask something meanwhile."""
        self._unsent: list[tuple[Any, ...]] = []
        """Messages that are sent before anything else of a task runs: the end of a job waits for as long as that."""
        self._questions = 0
        self._pid = os.getpid()
        self._load_errors: dict[int, tuple[str, str, tuple[str, str, int] | None]] = {}
        self._in_task = False
        self._lock_fd = -1
        self._term = self._on_term  # bound once: it must be recognised

    def run(self) -> None:
        """Take jobs until the parent closes the tokens, or a task left something that the next one must not find."""
        signal.signal(signal.SIGTERM, self._term)
        os.register_at_fork(after_in_child=self._leave_term_alone)
        self._surroundings = Surroundings()
        self._send("ready", os.getpid())
        while (number := self._next_token()) is not None:
            is_spoilt = self._run_job(number)
            if is_spoilt:
                break
        self._send_all()

    def _next_token(self) -> int | None:
        while True:
            try:
                data = os.read(self._tokens, TOKEN.size)  # all of one or nothing: pipes keep small writes together
            except BlockingIOError:  # none now; the parent, too, reads here and must never be made to wait
                self._send_all()
                self._waiting.poll()
                continue
            return int(TOKEN.unpack(data)[0]) if data else None

    def _job(self, number: int) -> tuple[int, Recipe, Payload]:
        """The message of job `number`; those before it were taken back by the parent, and are dropped."""
        while True:
            with self._receiving:
                message = self._next_message()
            if message[0] == "code":
                self._codes[message[1]] = Code(*message[2:])
            elif message[0] == "recipe":
                self._recipes[message[1]] = Recipe(*message[2:])
            elif message[0] == "forget":
                self._recipes.clear()
            elif message[0] == "lock":
                self._lock_fd = _hold_lock(message[1])
                if self._begun.expires_at():
                    threading.Thread(target=_expire, args=[self._begun], name="liteflow-expiry", daemon=True).start()
            elif message[0] == "job" and message[1] == number:
                _, _, code_number, recipe_number, recipe, payload = message
                return (
                    code_number,
                    self._recipes[recipe_number] if recipe is None else Recipe(*recipe),
                    Payload(*payload),
                )

    def _next_message(self) -> tuple[Any, ...]:
        while not self._inbox:
            self._send_all()
            self._inbox.extend(self._unpacker.feed(self._receive()))
        return self._inbox.popleft()

    def _receive(self) -> bytes:
        piece = self._connection.recv(self._unpacker.next_read_bytes)
        if not piece:
            _leave()
        return piece

    def _ask(self, number: int, what: tuple[Any, ...]) -> tuple[Any, ...]:
        """What job `number` asks with: its question goes to the parent, and it waits for the answer."""
        if os.getpid() != self._pid:
            raise RuntimeError("only the task's own process can ask for values of other tasks")
        with self._receiving:
            self._questions += 1
            question = self._questions
            self._send("ask", number, question, what)
            while True:
                fresh = self._unpacker.feed(self._receive())
                for place, message in enumerate(fresh):
                    if message[:3] == ("answer", number, question):
                        self._inbox.extend(fresh[:place] + fresh[place + 1 :])
                        if message[3] is None:
                            raise RuntimeError("the task that asks for this value is over")
                        return tuple(message[3])
                self._inbox.extend(fresh)

    def _run_job(self, number: int) -> bool:
        code_number, recipe, payload = self._job(number)
        note_task(payload.dag_id, payload.run_id)
        self._capture_logging()
        with self._sending:
            self._output.begin(number)
        trace: str | None = None
        guard = None
        function = self._function(code_number)  # imports may take long, and are not the task's time
        self._send_all()
        started_us, started_at = clock_us(), time.monotonic()
        self._begun.note(number, started_us, started_at)
        if self._lock_fd >= 0:
            note_begun(self._lock_fd, payload.pk, payload.try_number, started_us)
        try:
            self._in_task = True
            try:
                if function is None:
                    result = self._load_failed(code_number)
                else:
                    result = call(function, recipe, payload, self._report, partial(self._ask, number))
            finally:
                self._in_task = False
        except TaskKilled:  # came between the call and here: what the call gave is void
            self._in_task = False
            result = Result("failed", "error", "TaskKilled", True, ())
        if code_number in self._load_errors:
            _, trace, guard = self._load_errors[code_number]
        ended_us = clock_us()
        self._output.restore()
        has_children = _has_children()
        with self._sending:
            self._output.end(number)
            self._unsent.append(
                ("end", number, started_us, started_at, ended_us, has_children, tuple(result), trace, guard)
            )
        if not self._inbox:
            self._send_all()  # nothing is behind it: who waits for it need not wait for the rest
        # Undo what the task did to the process and would trip the next one.
        is_restored = self._surroundings.restore()
        if not is_restored:
            self._say("spoilt")
        return has_children or not is_restored

    def _capture_logging(self) -> None:
        """Have the root logger send its records here, whatever the last task made of it."""
        root = logging.getLogger()
        if root.handlers != [self._handler]:
            root.handlers[:] = [self._handler]
        if root.level != logging.INFO:
            root.setLevel(logging.INFO)
        if root.manager.disable != logging.NOTSET:
            logging.disable(logging.NOTSET)

    def _function(self, number: int) -> Callable[..., Any] | None:
        found = self._functions.get(number)
        if found is None and number not in self._load_errors:
            self._send_all()  # it may take long
            try:
                with loading():
                    found = self._functions[number] = load(self._codes[number])
            except TaskKilled:
                raise
            except MissingMainGuard as error:
                self._load_errors[number] = (str(error), "", (error.message, error.file, error.line))
            except BaseException as error:
                self._load_errors[number] = (describe_error(error), trace_of(error), None)
        return found

    def _load_failed(self, number: int) -> Result:
        error, _, _ = self._load_errors[number]
        where = self._codes[number].file or self._codes[number].module or "its function"
        return Result("failed", "error", f"cannot load {where}: {error}", True, ())

    def _report(self, text: str) -> None:
        self._output.record(logging.ERROR, "liteflow.task", text.rstrip("\n"))

    def _leave_term_alone(self) -> None:
        """In a child that a task forks: SIGTERM ends it, as it would anywhere else. `Pool.terminate()` relies on it."""
        if signal.getsignal(signal.SIGTERM) == self._term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        if self._in_task:
            raise TaskKilled("the time of this task is up, or it was cancelled")

    def _say(self, *message: Any) -> None:
        """Send a message with the next one, or when there is nothing else to do."""
        with self._sending:
            self._unsent.append(message)

    def _send(self, *message: Any) -> None:
        """Send a message now, and what was to go with it."""
        self._say(*message)
        self._send_all()

    def _send_all(self) -> None:
        """Send what is not sent yet. Marks go first: who hears that a job ended reads its lines up to there."""
        if not self._unsent:
            return
        with self._sending:
            self._output.mark_end()
            unsent, self._unsent = self._unsent, []
            if unsent:  # else a thread that asks something was quicker
                self._connection.sendall(pack(*unsent))


def _hold_lock(path: str) -> int:
    """Lock a file for the rest of this process's life, and for that of everything that it forks; its descriptor."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(fd, fcntl.LOCK_EX)
    note_database(os.path.dirname(path).removesuffix(".locks"))
    note_begun(fd, 0, 0, 0)
    return fd


def _has_children() -> bool:
    """Whether a process that a task started is still there. Dead ones are reaped."""
    try:
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return True
    except ChildProcessError:
        return False


def _adopt_orphans() -> None:
    """Become the parent of what tasks start and abandon, so that `setsid` and `nohup` do not hide it. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes

    set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


def _hang_on(lifeline: int) -> None:
    """Make the death of the parent ours, and that of everything in our session.

    On Linux the kernel sends SIGKILL to the process group when the parent's end of the pipe closes, even while
    a task holds the interpreter. Elsewhere a thread waits for it, which a task that holds the interpreter delays.
    """
    import fcntl

    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        closed = select.poll()
        closed.register(lifeline, select.POLLIN)
        if closed.poll(0):  # it closed before we were ready for it
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return

    def watch() -> None:
        os.read(lifeline, 1)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="liteflow-lifeline", daemon=True).start()


def _expire(begun: Begun) -> None:
    """End everything in our session when our time is over, which the parent puts off as long as it can."""
    while (left_s := begun.expires_at() - steady_s()) > 0:
        time.sleep(min(left_s, EXPIRY_POLL_S))
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _leave() -> NoReturn:
    """End the process: run what tasks registered with `atexit`, wait for nothing else."""
    try:
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def main(connection_fd: int, tokens: int, lifeline: int, memory: int, null: int) -> NoReturn:
    """What a slot's process runs; the descriptors are inherited."""
    for fd in (connection_fd, tokens, lifeline):
        os.set_inheritable(fd, False)
    begun = Begun(memory)
    os.close(memory)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)
    be_main_of_first_file()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what the host blocks is its own business
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _hang_on(lifeline)
    _adopt_orphans()
    output = Output(os.environ["LITEFLOW_SLOT"].rsplit(":", 1)[-1])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    handler = RecordHandler(output)
    handler.setFormatter(logging.Formatter("%(message)s"))
    connection = socket.socket(fileno=connection_fd)
    try:
        Worker(connection, tokens, begun, output, handler).run()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the parent is gone or has given up on this slot
    _leave()
