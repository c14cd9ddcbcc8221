"""The family of errors: everything that liteflow raises on purpose.

Each message says what is wrong, where, and what to do; the facts are attributes, so that a program need not
read the message. All of them survive a trip through pickle. `exit_code` is what the command line ends with.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LiteflowError(Exception):
    """The base of the family. Keyword arguments become attributes: the facts behind the message."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self._facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._facts)


def _rebuild(cls: type[LiteflowError], message: str, facts: dict[str, Any]) -> LiteflowError:
    return cls(message, **facts)


class DagError(LiteflowError, ValueError):
    """A mistake in a dag, found while it is built."""


class InvalidIdError(DagError):
    """A dag id, task id or run id holds a character that is not allowed, or is empty or too long."""


class DuplicateTaskIdError(DagError):
    """Two tasks of one dag were given the same id. Facts: `task_id`."""

    task_id: str


class DagCycleError(DagError):
    """A task is downstream of itself. Facts: `cycle`, the task ids along it, the first one repeated at the end."""

    cycle: tuple[str, ...]


class InvalidOptionError(DagError, TypeError):
    """An option of a dag or task is unknown, or has a value that it cannot have. Facts: `option`."""

    option: str


class ParamError(LiteflowError, ValueError):
    """A param of a run is unknown, is missing, does not fit its schema, or cannot be stored. Facts: `param`."""

    param: str


class PoolError(LiteflowError):
    """A task is in a pool that there is not, or that is too small for it. Facts: `pool`."""

    pool: str


class TransportError(DagError):
    """A task's function or one of its arguments cannot be sent to a worker."""


class DagFileError(LiteflowError):
    """A file with dags cannot be loaded, or does not hold the dag that was asked for."""


class AirflowNameError(DagFileError, ImportError):
    """A dag file imports something of Airflow's that liteflow has not. Facts: `name`, with its module."""

    name: str


class MetadataOnlyError(LiteflowError):
    """A `Dag` from `Dag.load()` was asked to do what only the code that defines it can."""


class MissingMainGuard(LiteflowError, SystemExit):
    """A dag file starts a run while it is only being imported by a worker or by `liteflow run`.

    Also a `SystemExit` with code 2: a script that makes this mistake ends at once instead of going on with a
    run that cannot work. Facts: `file`, `line` of the call.
    """

    file: str
    line: int

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.code = 2


class RunConflictError(LiteflowError):
    """A run id is taken by a run with other params, another logical date or another structure. Facts: `run_id`."""

    run_id: str


class RunOwnedError(LiteflowError):
    """A run cannot be taken up: the process that drives it lives, or its tries do. Facts: `run_id`, `pid`."""

    run_id: str
    pid: int


class RunActiveError(LiteflowError):
    """A run was to be the only one of its dag, and another one goes on. Facts: `run_id`, `pid`: of that one."""

    run_id: str
    pid: int


class RunInterruptedError(LiteflowError):
    """The process that drove a run is dead, and the run is not finished. Facts: `run_id`."""

    exit_code: ClassVar[int] = 4
    run_id: str


class TaskFailedError(LiteflowError):
    """A task whose result was asked for did not succeed. Facts: `run_id`, `task_id`, `map_index`, `state`."""

    run_id: str
    task_id: str
    map_index: int
    state: str


class TriggerError(LiteflowError):
    """A task could not begin a run of another dag, or that run ended as it must not."""


class ExternalTaskNotFoundError(LiteflowError):
    """The dag, task or group for which a sensor waits is not there."""


class ExternalTaskFailedError(LiteflowError):
    """That for which a sensor waits is in one of its `failed_states`."""


class NotFoundError(LiteflowError, LookupError):
    """No dag, run, task instance or XCom of that name. Facts: `identifier`."""

    identifier: str


class VariableNotFoundError(NotFoundError, KeyError):
    """No variable of that name, and no default was given. Facts: `identifier`."""


class ConnectionNotFoundError(NotFoundError):
    """No connection of that id. Facts: `identifier`. Airflow's `AirflowNotFoundException`."""


class SettingsError(LiteflowError):
    """Variables or connections cannot be read, or were to be changed. Facts, where a file is at fault: `path`."""

    path: str


class AmbiguousRunError(LiteflowError, LookupError):
    """A beginning of a run id fits several runs. Facts: `identifier`, `candidates` (`DAG/RUN` each)."""

    identifier: str
    candidates: tuple[str, ...]


class ServiceError(LiteflowError):
    """The executor service cannot do that now: it is stopped, or broke, or does not know the dag."""


class StorageError(LiteflowError):
    """The database cannot be used. Facts: `path`."""

    exit_code: ClassVar[int] = 3
    path: str


class ConnectionLostError(StorageError):
    """The server of the database cannot be reached, or went away: nothing of the transaction is written. Facts: `path`.

    Where the connection ended in the middle of a commit and the server does not come back, `unsettled` is the number of
    its transaction, of which nobody knows whether it was committed; otherwise it is None.
    """

    unsettled: str | None = None


class LeaseLostError(StorageError):
    """The lease of an executor service on a database that several machines share is over; it gave its runs up."""


class DatabaseMissingError(StorageError):
    """There is no database at the path, and what was asked for does not create one."""


class SchemaOutdatedError(StorageError):
    """The database is older than this liteflow. Facts: `path`, `found`, `needed` (revisions)."""

    found: str
    needed: str


class SchemaTooNewError(StorageError):
    """The database was written by a newer liteflow. Facts: `path`, `found`, `needed` (revisions)."""

    found: str
    needed: str


class NotALiteflowDatabaseError(StorageError):
    """The file exists and is something else."""


class XComEncodeError(LiteflowError, ValueError):
    """A value cannot be stored as an XCom."""


class XComDecodeError(LiteflowError, ValueError):
    """A stored XCom cannot be turned back into its value in this process. `raw=True` gives the bytes."""


class TemplateError(LiteflowError):
    """A Jinja template among the arguments of a task cannot be rendered. Facts: `template`, its text."""

    template: str


class SkipTask(LiteflowError):
    """Raise this in a task to end it as `skipped`. Airflow's `AirflowSkipException`."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)


class FailTask(LiteflowError):
    """Raise this in a task to end it as `failed` without using its retries. Airflow's `AirflowFailException`."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)


class TaskKilled(BaseException):
    """Raised in a running task when its time is up or it was cancelled, so that its `finally` blocks run.

    Not an `Exception`: `except Exception` must not catch it. Whoever catches it all the same is killed when the
    grace period (`kill_grace_s`) is over.
    """


class DagWarning(UserWarning):
    """A dag is allowed, and its rules make of it what will surprise: the message says where, what and what to do.

    Silence one with `warnings.filterwarnings("ignore", ".*task 'report'", DagWarning)`, all with
    `warnings.simplefilter("ignore", DagWarning)`, before the dag is built. The pattern fits from the beginning of the
    message, which is the file.
    """
