"""A PostgreSQL server for the tests: of Debian's package, on loopback, with a data directory and a password of its own.

A guard, a process of its own that is no child of the tests, starts the server and ends it: each process that uses the
server holds the guard's named pipe open for writing, and when the last of them is gone, killed or not, the guard stops
the server and removes its files. When the guard itself is killed the kernel ends the server. Run as root the server has
another user, and so its data lie beside the tests' temporary directory, which only root may enter.

One server serves all workers of one pytest session (`shared_server`); a test that stops or kills one has an own
(`own_server`).
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import itertools
import json
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROLE = "liteflow"
TEMPLATE = "liteflow_template"
READY_S = 60.0
WHY_SKIPPED = "no PostgreSQL is here: apt-get install postgresql"

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "16MB",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "10min",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    "log_checkpoints": "off",
    "lc_messages": "C",
}
"""Of a server that shares two cores with the tests."""

UNSAFE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Of one that nobody kills."""

_DISCONNECT = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_COLUMNS = """
SELECT string_agg(format('%s.%s %s %s', attrelid::regclass, attname, atttypid, attnotnull), ','
  ORDER BY attrelid, attnum)
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE relkind IN ('r', 'i') AND attnum > 0 AND relnamespace = 'public'::regnamespace
"""
"""What there is of tables and indexes, as one text."""

_EMPTY = """
DO $$ DECLARE one record; BEGIN
  SET LOCAL session_replication_role = replica;
  FOR one IN SELECT oid::regclass AS name FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'liteflow_schema' LOOP
    EXECUTE format('DELETE FROM %s', one.name);
  END LOOP;
  PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace;
END $$
"""
"""Deletes all rows, and has keys begin at 1 again. A TRUNCATE would make some dozens of files anew."""

_numbers = itertools.count()


def find_postgres() -> Path | None:
    """The directory of the server's programs: the newest of Debian's, else where `postgres` is on the PATH, or None."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()]
    if found:
        return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.parent.name)])
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


def user_of_server() -> tuple[int, int] | None:
    """Ids of the user and group that the server is to have, which refuses to be root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise RuntimeError("a PostgreSQL server cannot run as root, and there is no user postgres or nobody")


def _remove_locks(url: str) -> None:
    """Remove the lock files of a database that nobody uses any more: they lie in a directory of this machine."""
    from liteflow.execution.places import lock_directory
    from liteflow.storage.engine import told_path

    for one in (url, re.sub(r":[^:@/]+@", "@", url)):  # with the password, and without
        shutil.rmtree(lock_directory(told_path(one)), ignore_errors=True)


class Server:
    """A running server, for as long as this process lives or until it is left. `directory`: where its guard is met."""

    def __init__(self, directory: Path, *, safe: bool) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._held = _hold(directory, safe)
        self._facts: dict[str, Any] = json.loads((directory / "server.json").read_text())
        self.port: int = self._facts["port"]
        self.password: str = self._facts["password"]
        self._spare: list[str] = []
        self._columns: Any = None

    def url(self, database: str) -> str:
        """The URL of a database, with the password."""
        return f"postgresql+psycopg://{ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"

    def conninfo(self, database: str = "postgres") -> str:
        """The same in libpq's words."""
        return f"host=127.0.0.1 port={self.port} user={ROLE} password={self.password} dbname={database}"

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (Path(self._facts["data"]).parent / "log").read_text("utf-8", "replace")

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own."""
        import psycopg

        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[str]:
        """The URL of a fresh database, which has liteflow's tables unless it is to be `empty`; gone afterwards.

        Those with tables are used again, without rows: it takes a tenth of the time that a new one takes.
        """
        name = None if empty or not self._spare else self._spare.pop()
        if name is None:
            name = f"t{os.getpid()}_{next(_numbers)}"
            self.execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else self._template()}")
            if not empty and self._columns is None:
                self._columns = self._columns_of(name)
        try:
            yield self.url(name)
        finally:
            if not empty and self._is_emptied(name):
                self._spare.append(name)
            else:
                self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            _remove_locks(self.url(name))

    def _is_emptied(self, name: str) -> bool:
        """Whether it has what the template has, and no rows and no clients any more."""
        import psycopg

        try:
            with psycopg.connect(self.conninfo(name), autocommit=True) as connection:
                connection.execute(_DISCONNECT)
                is_same = connection.execute(_COLUMNS).fetchone() == self._columns
                if is_same:
                    connection.execute(_EMPTY)
        except psycopg.Error:
            return False
        return is_same

    def _columns_of(self, name: str) -> Any:
        import psycopg

        with psycopg.connect(self.conninfo(name)) as connection:
            return connection.execute(_COLUMNS).fetchone()

    def _template(self) -> str:
        """The name of a database with the tables, made by the first who asks.

        Its texts are sorted in the manner of people where the server can: whoever relies on another order must say so.
        """
        with _locked(self._directory / "template.lock"):
            made = self._directory / f"template-{self.port}"
            if not made.exists():
                from liteflow.storage.schema import open_database

                self.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
                open_database(self.url(TEMPLATE), create=True, pooled=False).close()
                made.touch()
        return TEMPLATE

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart` waits for its clients, `fast` disconnects them, `immediate` is a crash that it knows of,
        `kill` is SIGKILL for the postmaster."""
        number = {
            "smart": signal.SIGTERM,
            "fast": signal.SIGINT,
            "immediate": signal.SIGQUIT,
            "kill": signal.SIGKILL,
        }[mode]
        pid = self.postmaster()
        assert pid is not None, "the server does not run"
        os.kill(pid, number)
        _wait_until(lambda: self.postmaster() != pid and not _lives(pid), "the server has not ended")

    def start(self) -> None:
        """Start it again, on the same port, with what it had."""
        os.write(self._held, b"start\n")
        _wait_until(lambda: self.is_ready(), "the server has not started")

    def restart(self, mode: str = "fast") -> None:
        """Stop it in that mode, and start it."""
        self.stop(mode)
        self.start()

    def postmaster(self) -> int | None:
        """Its process, or None when it does not run."""
        lines = self._pid_file()
        pid = int(lines[0]) if lines and lines[0].isdigit() else None
        return pid if pid is not None and _lives(pid) else None

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        return self.postmaster() is not None and _is_ready(self._pid_file())

    def _pid_file(self) -> list[str]:
        return _lines_of(Path(self._facts["data"]) / "postmaster.pid")

    def release(self) -> None:
        """Let go of it: the server ends when nobody else has it."""
        os.close(self._held)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server of this session of pytest, which lives as long as any worker. Nobody may stop it, and it forgets what
    it has when it is killed."""
    return server_of_session(tmp_path_factory.getbasetemp())


@functools.cache
def server_of_session(base: Path) -> Server:
    """The same, by pytest's base for temporary directories; skips the test or lets it fail where there is none."""
    _require()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    return Server(shared / "postgres", safe=False)


@pytest.fixture
def postgres_db(postgres: Server) -> Iterator[str]:
    """The URL of a fresh database that has liteflow's tables."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to be stopped and killed; what it has committed is on the disk."""
    _require()
    server = Server(tmp_path / "postgres", safe=True)
    try:
        yield server
    finally:
        server.release()


def _require() -> None:
    """Skip the test where there is no PostgreSQL; with $LITEFLOW_NEEDS_POSTGRES set, fail."""
    missing = None if find_postgres() else WHY_SKIPPED
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing = missing or "psycopg is not here: pip install 'liteflow[postgres]'"
    if missing is not None:
        if os.environ.get("LITEFLOW_NEEDS_POSTGRES"):
            pytest.fail(missing)
        pytest.skip(missing)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _hold(directory: Path, safe: bool) -> int:
    """The guard's pipe, open for writing; a guard is started where there is none."""
    pipe = directory / "guard"
    with _locked(directory / "lock"):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            pass  # there is no guard, or nobody reads what a killed one has left
        pipe.unlink(missing_ok=True)
        (directory / "server.json").unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)
        log = directory / "guard.log"
        with open(log, "wb") as output:
            subprocess.run(  # it forks, and its parent ends: the guard is no child of a test
                [sys.executable, __file__, str(directory), *(["safe"] if safe else [])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=READY_S,
                check=True,
            )
        held: list[int] = []

        def opened() -> bool:
            try:
                held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return False
            return True

        _wait_until(opened, "there is no guard", log)
        try:
            _wait_until(lambda: (directory / "server.json").exists(), "the server has not started", log)
        except BaseException:
            os.close(held[0])
            raise
        return held[0]


def _wait_until(condition: Any, what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline or (log is not None and "Traceback" in log.read_text("utf-8", "replace")):
            said = log.read_text("utf-8", "replace") if log is not None else ""
            raise RuntimeError(f"{what}\n{said}")
        select.select([], [], [], 0.01)


def _lives(pid: int) -> bool:
    """Whether there is that process, and it is no zombie."""
    if os.path.isdir("/proc/self"):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _is_ready(lines: list[str]) -> bool:
    """What `pg_ctl` asks the eighth line of postmaster.pid."""
    return len(lines) >= 8 and lines[7].strip() == "ready"


class Guard:
    """Starts the server, and ends it when nobody holds the pipe."""

    def __init__(self, directory: Path, *, safe: bool) -> None:
        self.directory = directory
        self.programs = find_postgres()
        assert self.programs is not None
        self.user = user_of_server()
        self.home = Path(tempfile.mkdtemp(prefix="liteflow-postgres-"))
        if self.user is not None:
            os.chown(self.home, *self.user)
        self.data = self.home / "data"
        self.settings = {**SETTINGS, **({} if safe else UNSAFE)}
        self.server: subprocess.Popen[bytes] | None = None
        self.port = 0

    def run(self) -> None:
        """Until nobody holds the pipe any more."""
        pipe = os.open(self.directory / "guard", os.O_RDONLY | os.O_NONBLOCK)
        try:
            password = secrets.token_hex(16)
            self._make_cluster(password)
            self._start_on_a_free_port()
            facts = {"port": self.port, "password": password, "data": str(self.data), "guard": os.getpid()}
            half = self.directory / "server.json.half"
            half.touch(mode=0o600)
            half.write_text(json.dumps(facts))
            half.rename(self.directory / "server.json")
            self._serve(pipe)
        finally:
            self._stop()
            shutil.rmtree(self.home, ignore_errors=True)

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC", "LC_ALL": "C"}
        user: dict[str, Any] = {"cwd": self.home, "env": environment}
        if self.user is not None:
            user |= {"user": self.user[0], "group": self.user[1], "extra_groups": []}
        return user

    def _make_cluster(self, password: str) -> None:
        secret = self.home / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        if self.user is not None:
            os.chown(secret, *self.user)
        initdb = [str(self.programs / "initdb"), "-D", str(self.data), "-U", ROLE, "--pwfile", str(secret)]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        # Not the order of bytes, where the server has another: what relies on that order has to say so.
        icu = ["--locale-provider=icu", "--icu-locale=en-US"]
        for more in (icu, []):
            done = subprocess.run([*initdb, *options, *more], **self._as_user(), capture_output=True, check=False)
            if done.returncode == 0:
                break
            shutil.rmtree(self.data, ignore_errors=True)
        else:
            raise RuntimeError(f"initdb: {done.stderr.decode('utf-8', 'replace')}")
        secret.unlink()

    def _start_on_a_free_port(self) -> None:
        for attempt in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            if self.start():
                return
            print(f"attempt {attempt + 1} on port {self.port} failed", flush=True)  # another took the port meanwhile
        raise RuntimeError(f"the server does not start: {(self.home / 'log').read_text('utf-8', 'replace')}")

    def start(self) -> bool:
        """Start the server, and wait until it is ready or has ended."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a killed one, whose backends end by themselves
        settings = [f"--{name}={value}" for name, value in {**self.settings, "port": self.port}.items()]
        with open(self.home / "log", "ab") as log:
            self.server = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data), *settings],
                **self._as_user(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + READY_S
        while self.server.poll() is None and time.monotonic() < deadline:
            lines = _lines_of(self.data / "postmaster.pid")
            if lines and lines[0] == str(self.server.pid) and _is_ready(lines):
                return True
            select.select([], [], [], 0.01)
        self._stop()
        return False

    def _serve(self, pipe: int) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([pipe, woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if pipe not in ready:
                continue
            said = os.read(pipe, 4096)
            if b"start" in said:
                self._reap()
                if not self.start():
                    print("did not start", flush=True)
            if said:
                continue
            with _locked(self.directory / "lock"):  # whoever comes now finds us gone, or was here before
                if not select.select([pipe], [], [], 0)[0] or not _has_no_writer(pipe):
                    continue
                (self.directory / "guard").unlink(missing_ok=True)
                (self.directory / "server.json").unlink(missing_ok=True)
                for made in self.directory.glob("template-*"):
                    made.unlink()
                return

    def _reap(self) -> None:
        if self.server is not None:
            self.server.poll()

    def _stop(self) -> None:
        if self.server is None or self.server.poll() is not None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            self.server.send_signal(number)
            try:
                self.server.wait(10)
            except subprocess.TimeoutExpired:
                continue
            return


def _has_no_writer(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _end_with_parent() -> None:
    """In the server before it begins: SIGQUIT, an immediate stop, when its guard dies. Linux only."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGQUIT)


def main(directory: str, *safe: str) -> None:
    """Become a guard: no child of whoever asked, and in a session of its own, where no terminal reaches it."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    Guard(Path(directory), safe=bool(safe)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
