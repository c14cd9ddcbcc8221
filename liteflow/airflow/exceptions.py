"""Airflow's exceptions. A dag's own code raises and catches them; what liteflow acts on is derived from its own."""

from __future__ import annotations

from typing import Any, NoReturn

from liteflow import errors

AirflowTaskTimeout = errors.TaskKilled
"""As in Airflow not an `Exception`: raised in a task whose time is up."""
AirflowTaskTerminated = errors.TaskKilled
AirflowDagCycleException = errors.DagCycleError
DuplicateTaskIdFound = errors.DuplicateTaskIdError
TaskAlreadyInTaskGroup = errors.DuplicateTaskIdError
AirflowDagDuplicatedIdException = errors.DagFileError
FailFastDagInvalidTriggerRule = errors.DagError
ParamValidationError = errors.ParamError


class AirflowException(Exception):
    """What tasks raise when something went wrong: the try fails, and is tried again as `retries` say."""


class AirflowSkipException(AirflowException, errors.SkipTask):
    """Ends the task as skipped."""


class AirflowFailException(AirflowException, errors.FailTask):
    """Ends the task as failed without using its retries."""


class AirflowSensorTimeout(AirflowException):
    """A sensor waited for too long."""


class AirflowRescheduleException(AirflowException):
    """Not possible here: a sensor with mode="reschedule" is what gives its slot back."""

    def __init__(self, *_: Any) -> NoReturn:
        raise TypeError('a task cannot reschedule itself here; write a sensor with mode="reschedule"')


class AirflowBadRequest(AirflowException):
    """A request that cannot be understood."""


class AirflowConfigException(AirflowException):
    """A setting is not there or cannot be read."""


class AirflowInternalRuntimeError(BaseException):
    """An error that is nobody's."""


class AirflowNotFoundException(AirflowException, errors.NotFoundError):
    """Something that was asked for is not there."""


class AirflowOptionalProviderFeatureException(AirflowException):
    """A package is not installed that a part of a provider needs."""


class AirflowRuntimeError(Exception):
    """Airflow's server answered with an error."""


class AirflowTimetableInvalid(AirflowException):
    """A timetable that cannot be."""


class DagNotFound(AirflowNotFoundException):
    """No dag of that id."""


class DagRunNotFound(AirflowNotFoundException):
    """No run of that id."""


class DagRunAlreadyExists(AirflowBadRequest):
    """There is a run of that id."""


class NodeNotFound(AirflowNotFoundException):
    """No task or group of that id."""


class TaskNotFound(NodeNotFound):
    """No task of that id."""


class TaskInstanceNotFound(AirflowNotFoundException):
    """No such task instance."""


class PoolNotFound(AirflowNotFoundException):
    """No pool of that name."""


class XComNotFound(AirflowException):
    """No such XCom."""


class UnmappableXComTypePushed(AirflowException):
    """A value that cannot be mapped over."""


class XComForMappingNotPushed(AirflowException):
    """A task that is mapped over handed nothing on."""


class SerializationError(AirflowException):
    """A value that cannot be stored."""


class DeserializationError(Exception):
    """A stored value that cannot be read."""


class AirflowProviderDeprecationWarning(DeprecationWarning):
    """A part of a provider is going to be removed."""


class RemovedInAirflow4Warning(DeprecationWarning):
    """A part of Airflow is going to be removed."""
