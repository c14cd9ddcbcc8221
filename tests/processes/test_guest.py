"""liteflow in other people's programs: what belongs to the host stays as it was, and goes on working.

Each test is a host of its own, in a real process. The host's signals as `dag.run()` answers them are in
tests/faults/test_signals.py, hosts that are killed in tests/faults/test_workers_liveness.py.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from liteflow import Dag, ExecutorService, task
from tests.conftest import Script, run_python

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

BEGINNING = """
import asyncio, os, signal, sys, threading, time
from liteflow import Dag, ExecutorService, get_current_context, task

HERE = os.path.dirname(os.path.abspath(__file__))

@task
def one():
    return 1

@task(kill_grace_s=0.5)
def hold(name):
    open(f"{HERE}/{name}.begun", "w").close()
    while not os.path.exists(f"{HERE}/{name}.go"):
        time.sleep(0.005)
    return name

@task(retries=1, retry_delay=0)
def die_once():
    if get_current_context()["try_number"] == 1:
        os._exit(3)
    return os.getcwd()

with Dag("guest", db_path="g.db") as dag:
    one()
with Dag("held", db_path="g.db", params={"name": "held"}) as held:
    hold(held.param("name")) >> one()
with Dag("dies", db_path="g.db") as dies:
    die_once()

def there(name, what="begun"):
    while not os.path.exists(f"{HERE}/{name}.{what}"):
        time.sleep(0.005)

def go(name):
    open(f"{HERE}/{name}.go", "w").close()

"""

Make = Callable[..., Script]


@pytest.fixture
def host(script: Make) -> Callable[..., Script]:
    """Make a host of the text that stands under its `__main__` guard, and of what stands above that."""

    def make(body: str, above: str = "") -> Script:
        body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
        text = f'{BEGINNING}{textwrap.dedent(above)}\nif __name__ == "__main__":\n{body}\n'
        return script(text, "host.py")

    return make


def said(made: Script, *args: str, timeout: float = 30, code: int = 0) -> list[str]:
    """The lines that a host prints; it must end with `code`, and say nothing on stderr."""
    done = made.run(*args, timeout=timeout)
    assert (done.returncode, done.stderr) == (code, ""), done.stderr
    return done.stdout.splitlines()


# Locks and threads


def test_locks_that_threads_of_the_host_hold_do_not_hold_up_a_run(host: Make, tmp_path: Path) -> None:
    """Slots are new programs: nothing of what a fork would copy half-way is in them."""
    (tmp_path / "slow.py").write_text("import host_state\nhost_state.importing.set()\nhost_state.free.wait(30)\n")
    (tmp_path / "host_state.py").write_text(
        "import threading\nimporting, free = threading.Event(), threading.Event()\n"
    )
    made = host(
        """
        import logging, host_state
        handler = logging.StreamHandler()
        logging.getLogger().addHandler(handler)
        def holds():
            with LOCK, handler.lock, host_lock:
                import slow  # with the lock of its import
        host_lock = threading.RLock()
        thread = threading.Thread(target=holds)
        thread.start()
        host_state.importing.wait()
        print(locking.run(progress=False).state, dag.run(progress=False).state, thread.is_alive())
        host_state.free.set()
        thread.join()
        """,
        """
        LOCK = threading.Lock()

        @task(timeout=10)
        def lock():
            import logging
            with LOCK:
                logging.getLogger().warning("heard")

        with Dag("locking", db_path="g.db") as locking:
            lock()
        """,
    )
    assert said(made) == ["success success True"]


def test_a_run_from_any_thread_and_many_threads_that_submit_at_once(host: Make) -> None:
    made = host(
        """
        ended = []
        def alone():
            ended.append(str(dag.run(progress=False).state))
        threads = [threading.Thread(target=alone) for _ in range(2)]
        service = ExecutorService("g.db", max_workers=2)
        gate = threading.Barrier(6)
        def together():
            gate.wait()
            service.start()
            ended.extend(str(service.submit(dag).wait(30).state) for _ in range(3))
        threads += [threading.Thread(target=together) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(ended), set(ended), [thread.name for thread in threading.enumerate()].count("liteflow-service"))
        stopping = [threading.Thread(target=service.stop) for _ in range(3)]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        print([thread.name for thread in threading.enumerate()])
        """
    )
    assert said(made) == ["20 {'success'} 1", "['MainThread']"]


# Signals


def test_signal_handlers_of_the_host_stay_and_are_called(host: Make) -> None:
    """One of them reaps every child of the process, as some programs do."""
    made = host(
        """
        heard = []
        def note(number, frame):
            heard.append(signal.Signals(number).name)
        def reap(number, frame):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        handlers = {getattr(signal, f"SIG{name}"): note for name in ("INT", "TERM", "ALRM", "HUP", "USR1")}
        handlers[signal.SIGCHLD] = reap
        for number, handler in handlers.items():
            signal.signal(number, handler)
        def same():
            return all(signal.getsignal(number) is handler for number, handler in handlers.items())
        meanwhile = []
        def send():
            there("held")
            meanwhile.append(same())
            for number in handlers:
                if number != signal.SIGCHLD:
                    os.kill(os.getpid(), number)
            go("held")
        thread = threading.Thread(target=send)
        thread.start()
        print(held.run(progress=False).state, dies.run(progress=False).state)
        thread.join()
        print(same(), meanwhile, sorted(heard))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        again = dies.run(progress=False)
        print(again.state, again.tries()[0].end_reason, signal.getsignal(signal.SIGCHLD).name)
        """
    )
    assert said(made) == [
        "success success",
        "True [True] ['SIGALRM', 'SIGHUP', 'SIGINT', 'SIGTERM', 'SIGUSR1']",
        "success crashed SIG_IGN",
    ]


def test_a_service_changes_no_signal_handler_at_any_time(host: Make) -> None:
    made = host(
        """
        calls = []
        for name in ("signal", "set_wakeup_fd", "siginterrupt", "pthread_sigmask", "setitimer", "alarm"):
            setattr(signal, name, lambda *args, name=name: calls.append(name))
        with ExecutorService("g.db", max_workers=1) as service:
            print(service.submit(dies).wait(30).state)
            service.submit(held, run_id="r")
            there("held")
            service.interrupt(0)
        service = ExecutorService("g.db", max_workers=1, dags=[held]).start()
        go("held")
        print(service.handle(held, "r").wait(30).state)
        service.stop()
        print(calls)
        """
    )
    assert said(made) == ["success", "success", "[]"]


def test_an_alarm_that_raises_in_the_host_ends_the_run_and_nothing_else(host: Make) -> None:
    made = host(
        """
        def too_late(number, frame):
            raise TimeoutError("the host's own")
        signal.signal(signal.SIGALRM, too_late)
        def ring():
            there("held")
            os.kill(os.getpid(), signal.SIGALRM)
        threading.Thread(target=ring).start()
        try:
            held.run(progress=False)
        except TimeoutError as error:
            print(error, held.latest_run().end_reason, signal.getsignal(signal.SIGALRM) is too_late)
        print(dag.run(progress=False).state)
        """
    )
    assert said(made) == ["the host's own cancelled True", "success"]


def test_an_event_loop_keeps_its_signals_and_a_run_may_block_a_coroutine(host: Make) -> None:
    made = host(
        """
        async def main():
            heard = []
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                loop.add_signal_handler(number, lambda number=number: heard.append(number.name))
            before = [signal.getsignal(number) for number in range(1, 32)]
            with ExecutorService("g.db", max_workers=1) as service:
                service.submit(dag).wait(30)
            def send():
                there("held")
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                    os.kill(os.getpid(), number)
                go("held")
            thread = threading.Thread(target=send)
            thread.start()
            print(held.run(progress=False).state, heard)  # blocks the loop
            thread.join()
            print((await dag.arun()).state, sorted(heard), before == [signal.getsignal(n) for n in range(1, 32)])
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(5)")
            print(await child.wait())
        asyncio.run(main())
        """
    )
    assert said(made) == ["success []", "success ['SIGALRM', 'SIGINT', 'SIGTERM'] True", "5"]


# What else belongs to the host


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_belongs_to_the_host_is_as_it_was(host: Make, method: str) -> None:
    made = host(
        """
        import decimal, gc, locale, logging, logging.config, multiprocessing, random, warnings
        class Unwell(logging.Handler):
            def emit(self, record):
                raise RuntimeError("the host's own handler")
        def hook(*_):
            pass
        multiprocessing.set_start_method(sys.argv[1])
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {"level": "WARNING"}})
        logging.getLogger().addHandler(Unwell())
        logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL)
        warnings.simplefilter("error")
        os.umask(0o027)
        locale.setlocale(locale.LC_ALL, "C")
        sys.excepthook = threading.excepthook = sys.unraisablehook = hook
        decimal.getcontext().prec = 7
        random.seed(1)
        def snapshot():
            mask = os.umask(0o027)
            return (
                [signal.getsignal(number) for number in range(1, 32)], signal.getitimer(signal.ITIMER_REAL),
                logging.getLogger().handlers[:], logging.getLogger().level, logging.root.manager.disable,
                logging.getLogger("sqlalchemy").level, logging.getLogger("sqlalchemy").handlers[:],
                logging.raiseExceptions, logging.lastResort, list(warnings.filters), warnings.showwarning,
                multiprocessing.get_start_method(allow_none=True), multiprocessing.active_children(),
                os.getcwd(), dict(os.environ), mask, locale.setlocale(locale.LC_ALL), list(sys.path),
                list(sys.meta_path), sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook,
                sys.stdin, sys.stdout, sys.stderr, sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(),
                gc.isenabled(), gc.get_threshold(), decimal.getcontext().prec, random.getstate(), threading.enumerate(),
            )
        before = snapshot()
        assert dies.run(progress=False).state == "success"
        with ExecutorService("g.db", max_workers=1) as service:
            def raises(event):
                raise ZeroDivisionError  # which is logged, and the handler raises
            print(service.submit(dag, listener=raises).wait(30).state, service.submit(dag).wait(30).state)
        after = snapshot()
        print([(old, new) for old, new in zip(before, after) if old != new])
        print(oct(os.stat("g.db").st_mode))
        """
    )
    assert said(made, method) == ["success success", "[]", "0o100640"]


def test_standard_streams_may_be_anything(host: Make) -> None:
    made = host(
        """
        import io
        class Bare:
            def write(self, text):
                return len(text)
        class Unwell(io.TextIOBase):
            def write(self, text):
                raise OSError("nobody reads it")
            flush = isatty = write
        closed = io.StringIO()
        closed.close()
        out, err, states = sys.stdout, sys.stderr, []
        for stream in (None, closed, Bare(), Unwell(), io.StringIO()):
            sys.stdin = sys.stdout = sys.stderr = stream
            states += [str(dag.run(progress=progress, max_workers=1).state) for progress in (None, True)]
            assert sys.stdin is sys.stdout is sys.stderr is stream
        sys.stdout, sys.stderr = out, err
        print(set(states))
        """
    )
    assert said(made) == ["{'success'}"]


@pytest.mark.parametrize("closed", ["0", "1,2", "0,1,2"])
def test_a_host_without_standard_descriptors(host: Make, tmp_path: Path, closed: str) -> None:
    made = host(
        """
        for fd in sys.argv[1].split(","):
            os.close(int(fd))
        run = dies.run()
        with open("told", "w") as file:
            print(run.state, run.xcom("die_once") == HERE, file=file)
        os._exit(0)  # the interpreter itself is not at ease
        """
    )
    made.run(closed)
    assert (tmp_path / "told").read_text() == "success True\n"


def test_a_host_that_goes_elsewhere_keeps_its_database_and_its_modules(host: Make, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "flow.py").write_text(
        "from liteflow import Dag, task\n@task\ndef two():\n    return 2\n"
        "with Dag('packed', db_path='p.db') as dag:\n    two()\n"
    )
    (tmp_path / "elsewhere").mkdir()
    made = host(
        """
        service = ExecutorService("g.db", max_workers=1).start()
        os.chdir("elsewhere")
        run = service.submit(dies).wait(30)
        print(run.state, os.path.relpath(run.xcom("die_once"), HERE), service.handle("dies", run.run_id).state)
        service.stop()
        print(os.listdir("."), [name for name in os.listdir(HERE) if "locks" in name])
        """
    )
    # A slot that is started later begins where the host is by then.
    assert said(made) == ["success elsewhere success", "[] []"]
    done = run_python(
        "-c",
        "import os, pack.flow\nos.chdir('elsewhere')\nprint(pack.flow.dag.run(progress=False).xcom('two'))",
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


# Forks


def test_a_forked_child_leaves_its_parents_service_alone(host: Make) -> None:
    made = host(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        def refused(*calls):
            for call in calls:
                try:
                    call()
                    print("not refused")
                except Exception as error:
                    if "in the" not in str(error) or "child" not in str(error):
                        print(repr(error))
        pids = []
        with ExecutorService("g.db", max_workers=1) as service:
            handle = service.submit(held, run_id="r")
            there("held")
            for how in ("with", "stop", "exit", "calls", "anew"):
                pid = os.fork()
                pids.append(pid)
                if pid:
                    continue
                if how == "calls":
                    refused(
                        handle.wait, handle.over, handle.cancel, lambda: handle.state, lambda: list(handle.events()),
                        lambda: handle.result("one"), lambda: asyncio.run(service.asubmit(dag)), service.start,
                        lambda: service.submit(dag), lambda: service.register(dag), lambda: service.resume(held, "r"),
                    )
                if how == "anew":
                    with ExecutorService("g.db", max_workers=1, dags=[held]) as other:
                        print(other.submit(dag).wait(30).state, other.handle("held", "r").state)
                if how == "stop":
                    service.interrupt()
                    service.stop(0, cancel=True)
                sys.stdout.flush()
                os._exit(0) if how == "exit" else sys.exit(0)  # which leaves the block, and calls what atexit has
            print([os.waitpid(pid, 0)[1] for pid in pids])
            go("held")
            print(handle.wait(30).state, [one.try_number for one in handle.run.task_instances()])
        """
    )
    assert said(made) == ["success running", "[0, 0, 0, 0, 0]", "success [1, 1]"]


def test_children_that_are_forked_beside_a_busy_service_can_open_databases(host: Make) -> None:
    """One in twenty used to wait for ever, for a lock of SQLite's library that the service's thread had held."""
    made = host(
        """
        import warnings
        from liteflow.storage.schema import open_database
        warnings.simplefilter("ignore", DeprecationWarning)
        ends = []
        with ExecutorService("g.db", max_workers=1) as service:
            handle = service.submit(busy)
            while len(ends) < 60:
                if handle.over():
                    handle = service.submit(busy)
                pid = os.fork()
                if not pid:
                    signal.alarm(10)
                    with open_database("g.db").read() as connection:
                        connection.exec_driver_sql("SELECT count(*) FROM liteflow_dag_run").fetchall()
                    os._exit(0)
                ends.append(os.waitpid(pid, 0)[1])
            handle.cancel()
        print(set(ends))
        """,
        """
        with Dag("busy", db_path="g.db") as busy:
            for _ in range(3000):
                one()
        """,
    )
    assert said(made, timeout=100) == ["{0}"]


def test_children_that_multiprocessing_forks_and_a_service_of_their_own(host: Make) -> None:
    made = host(
        """
        import multiprocessing, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        with ExecutorService("g.db", max_workers=1) as service:
            handle = service.submit(held)
            there("held")
            with context.Pool(2) as pool:
                print(pool.map(abs, [-1, -2]), pool.apply(runs_one))
            go("held")
            print(handle.wait(30).state)
        """,
        """
        def runs_one():
            return str(dag.run(progress=False).state)
        """,
    )
    assert said(made) == ["[1, 2] success", "success"]


def test_a_service_that_was_made_before_the_fork_is_started_in_each_child(host: Make) -> None:
    """As `gunicorn --preload` does it: the application is imported in the master, its workers are forked."""
    made = host(
        """
        pids = []
        for number in range(2):
            pid = os.fork()
            if not pid:
                with service:
                    print(service.submit(dag, run_id=f"r{number}").wait(30).state, flush=True)
                sys.exit(0)
            pids.append(pid)
        print([os.waitpid(pid, 0)[1] for pid in pids], flush=True)
        with service:
            print(service.submit(held, {"name": "mine"}, run_id="last").run_id)
            go("mine")
        print(len(dag.runs()))
        """,
        """
        service = ExecutorService("g.db", max_workers=1, dags=[dag])
        """,
    )
    assert said(made) == ["success", "success", "[0, 0]", "last", "2"]


# The end of the interpreter


@pytest.mark.parametrize("daemon", ["handle", "run", "none"])
def test_a_host_that_ends_leaves_its_run_to_be_resumed(host: Make, tmp_path: Path, daemon: str) -> None:
    """It used to look as if it had been killed: after three such ends the task had failed."""
    made = host(
        """
        def other():
            held.run({"name": "other"}, run_id="other", progress=False)
        how, daemon = sys.argv[1:]
        service = ExecutorService("g.db", dags=[held], max_workers=1).start()
        handle = service.submit(held, run_id="r")
        there("held")
        if daemon != "none":
            target = handle.wait if daemon == "handle" else other
            threading.Thread(target=target, daemon=True).start()
            there("held" if daemon == "handle" else "other")
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise SystemExit("the host's own")
        """
    )
    hows = [("end", 0, "")]
    if daemon == "none":
        hows += [("exit", 7, ""), ("raise", 1, "the host's own\n"), ("end", 0, "")]
    for how, code, error in hows:
        for name in ("held", "other"):
            (tmp_path / f"{name}.begun").unlink(missing_ok=True)
        began = time.monotonic()
        done = made.run(how, daemon, timeout=20)
        assert time.monotonic() - began < 8
        assert (done.returncode, done.stderr) == (code, error)
    run = Dag.load("held", tmp_path / "g.db").runs()[-1]
    assert (run.run_id, run.state, run.task_instance("hold").state) == ("r", "running", "queued")
    assert [one.end_reason for one in run.tries()] == ["cancelled"] * (len(hows) - 1)
    assert not (tmp_path / "g.db.locks").exists()


@pytest.mark.parametrize("grace_s", [0.2, 60])
def test_a_task_that_does_not_end_is_killed_when_the_interpreter_ends(
    host: Make, tmp_path: Path, grace_s: float
) -> None:
    made = host(
        """
        import subprocess
        service = ExecutorService("g.db", max_workers=1).start()
        service.submit(stubborn)
        there("stubborn")
        subprocess.Popen = None  # from Python 3.12 on no process can be started any more then
        """,
        """
        @task(kill_grace_s=float(os.environ["GRACE_S"]))
        def ignores():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hold.function("stubborn")

        with Dag("stubborn", db_path="g.db") as stubborn:
            ignores()
        """,
    )
    began = time.monotonic()
    done = made.run(timeout=20, GRACE_S=str(grace_s))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began < 8
    run = Dag.load("stubborn", tmp_path / "g.db").runs()[0]
    assert (run.state, run.task_instance("ignores").state) == ("running", "queued")


def test_what_the_host_registers_itself_comes_first_at_the_end(host: Make, tmp_path: Path) -> None:
    made = host(
        """
        import atexit
        service = ExecutorService("g.db", dags=[held], max_workers=1)
        atexit.register(lambda: (go("held"), service.stop(None)))
        service.start().submit(held)
        there("held")
        """
    )
    assert said(made) == []
    assert str(Dag.load("held", tmp_path / "g.db").runs()[0].state) == "success"


# Several databases


@task
def one() -> int:
    return 1


def test_a_dag_is_run_by_services_on_two_databases_at_once(tmp_path: Path) -> None:
    with Dag("both", db_path=tmp_path / "a.db") as dag:
        one()
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    with (
        ExecutorService(paths[0], dags=[dag], max_workers=1) as first,
        ExecutorService(paths[1], dags=[dag], max_workers=1) as second,
    ):
        handles = [service.submit(dag, run_id="same") for service in (first, second, first)]
        assert [handle.wait(30).state for handle in handles] == ["success"] * 3
        assert [handle.run.history.database.path for handle in handles[:2]] == [str(path) for path in paths]
    assert [len(Dag.load("both", path).runs()) for path in paths] == [1, 1]


# Prompts, notebooks, pytest


def test_a_dag_that_is_typed_at_a_prompt_is_run(tmp_path: Path) -> None:
    import subprocess

    from tests.conftest import ROOT

    lines = """
from liteflow import Dag, task
factor = 3

@task
def triple(x):
    return factor * x

with Dag("typed", db_path="t.db") as dag:
    r = triple(triple(2))

run = dag.run(progress=False)
print(run.state, run.xcom("triple__1"))
factor = 5
print(dag.run(progress=False).xcom("triple"))
"""
    for interpreter in (["-i", "-q"], ["-c", "import code; code.interact(banner='', exitmsg='', local={})"]):
        done = subprocess.run(
            [sys.executable, *interpreter],
            input=lines,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # Prompts are written to the one or to the other stream.
        printed = [line.rsplit(">>> ", 1)[-1] for line in done.stdout.splitlines()]
        assert [line for line in printed if line] == ["success 18", "10"], done.stderr


CELLS = [
    "import numbers\nfrom liteflow import Dag, task\nbase = 1",
    "@task\ndef first(x):\n    return x + base\n",
    "class Kept:\n    def __init__(self, n):\n        self.n = n\n",
    "@task\ndef second(x):\n    return helper(Kept(x))\ndef helper(kept):\n    return kept.n * 10\n",
    "with Dag('cells', db_path='c.db') as dag:\n    second(first(1))\n",
    "print(dag.run(progress=False).xcom('second'))",
    "base = 2\n",
    "print(dag.run(progress=False).xcom('second'), len(dag.runs()))",
    "@task\ndef first(x):\n    return x\nwith Dag('cells', db_path='c.db') as dag:\n    second(first(1))\n",
    "import asyncio\nprint(asyncio.run(dag.arun()).xcom('second'))",
    "print(asyncio.get_event_loop_policy() is not None, '_repr_mimebundle_' in dir(dag))",
]


def test_cells_as_a_notebook_executes_them(script: Make) -> None:
    """`__main__` is a module without a file, each cell has a name of its own, and functions are defined again."""
    made = script(
        f"CELLS = {CELLS!r}\n"
        "import linecache, sys, types\n"
        "main = types.ModuleType('__main__')\n"
        "sys.modules['__main__'] = main\n"
        "for number, cell in enumerate(CELLS):\n"
        "    name = f'/tmp/ipykernel_1/{number}.py'\n"
        "    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)\n"
        "    exec(compile(cell, name, 'exec'), main.__dict__)\n",
        "kernel.py",
    )
    assert said(made) == ["20", "30 2", "10", "True True"]


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_run_in_a_test_of_pytest_and_of_xdist(tmp_path: Path, mode: str) -> None:
    (tmp_path / "test_flow.py").write_text(
        "import pytest\nfrom liteflow import Dag, task\n@task\ndef one(x):\n    print('said')\n    return x\n"
        "def test_flow(tmp_path, capfd):\n    x = 2\n"
        "    @task\n    def inner(y):\n        return y + 1\n"
        "    with Dag('tested', db_path=tmp_path / 'x.db') as dag:\n        inner(one(x))\n"
        "    run = dag.run()\n    assert run.xcom('inner') == x + 1\n"
        "    assert [line.message for line in run.logs()] == ['said']\n    assert 'said' in capfd.readouterr().err\n"
    )
    workers = "0" if mode == "prepend" else "1"
    done = run_python("-m", "pytest", "-q", "-W", "error", f"--import-mode={mode}", "-n", workers, cwd=tmp_path)
    assert (done.returncode, "1 passed" in done.stdout) == (0, True), done.stdout + done.stderr
