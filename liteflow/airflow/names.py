"""Which of Airflow's names stand for what here: provided, inert, or missing with what exists instead.

Read off Airflow 3.3.2 and its standard provider 1.21.0; and where Airflow 2's modules had the same names, those too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Provided(NamedTuple):
    """A name that liteflow has."""

    module: str
    """The module in which it is defined."""
    name: str


class Inert(NamedTuple):
    """A name that loads, and means nothing here."""

    sort: str
    """What it is one of: assets, timetables, ..."""


class Missing(NamedTuple):
    """A name that liteflow has not got."""

    instead: str
    """What exists instead, as a part of a sentence; empty if nothing."""


Entry = Provided | Inert | Missing


def _from(module: str, names: str, **renamed: str) -> dict[str, Provided]:
    """Names of one module: those that are called the same there, then those that are not."""
    same = {name: Provided(module, name) for name in names.split()}
    return same | {name: Provided(module, there) for name, there in renamed.items()}


_DAG = _from("liteflow", "DAG dag")
_TASK = _from("liteflow", "task setup teardown task_group")
_EDGES = _from("liteflow", "chain chain_linear cross_downstream Label") | _from(
    "liteflow.airflow.values", "EdgeModifier"
)
_OPERATOR = _from("liteflow.operators", "BaseOperator")
_POKE_ONLY = _from("liteflow.operators", "poke_mode_only")
_SENSOR = _from("liteflow.operators", "BaseSensorOperator") | _from("liteflow", "PokeReturnValue")
_BRANCH = _from("liteflow.operators", "BaseBranchOperator BranchMixIn SkipMixin")
_XCOM = _from("liteflow", "XComArg")
_PARAM = _from("liteflow", "Param") | _from("liteflow.airflow.values", "ParamsDict DagParam")
_CONTEXT = _from("liteflow", "Context get_current_context") | _from("liteflow.airflow.values", "get_parsing_context")
_VARIABLE = _from("liteflow.authoring.variables", "Variable")
_CONNECTION = _from("liteflow.airflow.values", "Connection")
_HOOK = _from("liteflow.airflow.values", "BaseHook")
_RULE = _from("liteflow", "TriggerRule")
_WEIGHT = _from("liteflow.airflow.values", "WeightRule")
_STATE = _from("liteflow.airflow.values", "DagRunState TaskInstanceState State TerminalTIState IntermediateTIState")
_RETRY = _from("liteflow", "ExceptionRetryPolicy RetryAction RetryDecision RetryPolicy RetryRule")
_GROUP = _from("liteflow", "TaskGroup")
_LITERAL = _from("liteflow", "literal")
_CONF = _from("liteflow.airflow.values", "conf")
_NOTIFIER = _from("liteflow.airflow.values", "BaseNotifier")
_TASK_INSTANCE = _from("liteflow.airflow.values", "TaskInstance DagRun RuntimeTaskInstance")
_XCOM_MODEL = _from("liteflow.airflow.values", "BaseXCom XCom XCOM_RETURN_KEY")
_TIMEZONE = _from(
    "liteflow.airflow.timezone",
    "utc utcnow datetime parse make_aware make_naive is_localized is_naive convert_to_utc parse_timezone",
)
_VERSION = _from("liteflow.airflow.values", "__version__")
_MACROS = _from("liteflow.execution.templates", "", macros="macros")
_MACRO_NAMES = _from("liteflow.airflow.values", "ds_add ds_format datetime timedelta dateutil uuid random time json")

_EXCEPTIONS = _from(
    "liteflow.airflow.exceptions",
    "AirflowException AirflowBadRequest AirflowConfigException AirflowFailException AirflowNotFoundException "
    "AirflowOptionalProviderFeatureException AirflowProviderDeprecationWarning AirflowSensorTimeout AirflowSkipException "
    "AirflowTaskTerminated AirflowTaskTimeout AirflowTimetableInvalid DagNotFound DagRunNotFound DagRunAlreadyExists NodeNotFound "
    "TaskInstanceNotFound TaskNotFound XComNotFound PoolNotFound RemovedInAirflow4Warning AirflowInternalRuntimeError AirflowRuntimeError "
    "AirflowDagCycleException DuplicateTaskIdFound TaskAlreadyInTaskGroup FailFastDagInvalidTriggerRule ParamValidationError "
    "AirflowDagDuplicatedIdException UnmappableXComTypePushed XComForMappingNotPushed SerializationError DeserializationError",
)

_ASSET_NAMES = "Asset AssetAlias AssetAll AssetAny AssetAccessControl AssetWatcher Metadata AssetLineageInfo Dataset DatasetAlias DatasetAll DatasetAny Model"
_TIMETABLE_NAMES = (
    "AssetOrTimeSchedule CronDataIntervalTimetable CronPartitionTimetable CronTriggerTimetable DeltaDataIntervalTimetable DeltaTriggerTimetable "
    "EventsTimetable MultipleCronTriggerTimetable PartitionedAssetTimetable PartitionedAtRuntime Timetable DagRunInfo DataInterval TimeRestriction NullTimetable "
    "OnceTimetable ContinuousTimetable AssetTriggeredTimetable DatasetOrTimeSchedule AllowedKeyMapper ChainMapper FanOutMapper FixedKeyMapper IdentityMapper "
    "MinimumCount PartitionMapper ProductMapper RollupMapper SegmentWindow StartOfDayMapper StartOfHourMapper StartOfMonthMapper StartOfQuarterMapper "
    "StartOfWeekMapper StartOfYearMapper WaitForAll Window DayWindow HourWindow MonthWindow QuarterWindow WeekWindow YearWindow"
)
_DEADLINE_NAMES = "DeadlineAlert DeadlineReference BaseDeadlineReference deadline_reference AsyncCallback SyncCallback"
_LINK_NAMES = "BaseOperatorLink XComOperatorLink"


def _inert(sort: str, names: str) -> dict[str, Inert]:
    return {name: Inert(sort) for name in names.split()}


_INERT_SDK = {
    **_inert("assets", _ASSET_NAMES),
    **_inert("timetables", _TIMETABLE_NAMES),
    **_inert("deadlines", _DEADLINE_NAMES),
    **_inert("links", _LINK_NAMES),
    **_inert("lineage", "lineage"),
}

_SDK: dict[str, Entry] = {
    **_INERT_SDK,
    **_DAG, **_TASK, **_EDGES, **_OPERATOR, **_SENSOR, **_BRANCH, **_XCOM, **_PARAM, **_CONTEXT, **_VARIABLE, **_CONNECTION, **_HOOK,
    **_RULE, **_WEIGHT, **_STATE, **_RETRY, **_GROUP, **_LITERAL, **_CONF, **_NOTIFIER, **_TASK_INSTANCE, **_XCOM_MODEL, **_VERSION, **_MACROS,
    "asset": Missing("write the dag around the function with @dag and @task: nothing here is started by assets"),
    "ObjectStoragePath": Missing("open the file in the task, with pathlib or fsspec"),
    "BaseAsyncOperator": Missing("write execute() of a BaseOperator, with asyncio.run() in it"),
    "ResumableJobMixin": Missing("write a sensor with mode=\"reschedule\" for the job"),
    "NEVER_EXPIRE": Missing("keep what outlives a try in a file or an XCom"),
    "result": Missing("write the dag around the function with @dag and @task"),
}  # fmt: skip

_BASH = _from("liteflow.operators", "BashOperator")
_EMPTY = _from("liteflow.operators", "EmptyOperator")
_PYTHON = _from(
    "liteflow.operators",
    "PythonOperator BranchPythonOperator ShortCircuitOperator PythonVirtualenvOperator ExternalPythonOperator BranchPythonVirtualenvOperator "
    "BranchExternalPythonOperator",
) | _from("liteflow", "get_current_context")
_LATEST = _from("liteflow.operators", "LatestOnlyOperator")
_TRIGGER = _from("liteflow.operators", "TriggerDagRunOperator")
_BRANCH_DATE = _from("liteflow.operators", "BranchDateTimeOperator")
_BRANCH_DAY = _from("liteflow.operators", "BranchDayOfWeekOperator")
_WEEKDAY = _from("liteflow.operators", "WeekDay")
_EXTERNAL = _from("liteflow.operators", "ExternalTaskSensor ExternalTaskMarker")
_TIME_SENSORS = _from("liteflow.operators", "TimeSensor TimeSensorAsync")
_DATE_SENSORS = _from("liteflow.operators", "DateTimeSensor DateTimeSensorAsync")
_DELTA_SENSORS = _from("liteflow.operators", "TimeDeltaSensor TimeDeltaSensorAsync WaitSensor")
_FILE_SENSOR = _from("liteflow.operators", "FileSensor")
_PYTHON_SENSOR = _from("liteflow.operators", "PythonSensor")
_BASH_SENSOR = _from("liteflow.operators", "BashSensor")
_DAY_SENSOR = _from("liteflow.operators", "DayOfWeekSensor")

_HITL = Missing("ask for it before the run, with a Param")
_TRIGGERS = Missing('nothing is deferred here: a sensor with mode="reschedule" holds no slot while it waits')


def _all(names: str, entry: Missing) -> dict[str, Entry]:
    return dict.fromkeys(names.split(), entry)


MODULES: Mapping[str, Mapping[str, Entry]] = {
    "airflow": {**_DAG, **_XCOM, **_VERSION, **_inert("assets", "Dataset Asset")},
    "airflow.sdk": _SDK,
    "airflow.sdk.bases": {},
    "airflow.sdk.bases.operator": {**_OPERATOR, **_EDGES},
    "airflow.sdk.bases.sensor": {**_SENSOR, **_POKE_ONLY},
    "airflow.sdk.bases.branch": _BRANCH,
    "airflow.sdk.bases.skipmixin": _BRANCH,
    "airflow.sdk.bases.hook": _HOOK,
    "airflow.sdk.bases.notifier": _NOTIFIER,
    "airflow.sdk.bases.operatorlink": _inert("links", _LINK_NAMES),
    "airflow.sdk.bases.timetable": _inert("timetables", "BaseTimetable"),
    "airflow.sdk.bases.xcom": _XCOM_MODEL,
    "airflow.sdk.configuration": _CONF,
    "airflow.sdk.definitions": {},
    "airflow.sdk.definitions.asset": {**_inert("assets", _ASSET_NAMES), "asset": _SDK["asset"]},
    "airflow.sdk.definitions.asset.metadata": _inert("assets", "Metadata"),
    "airflow.sdk.definitions.connection": _CONNECTION,
    "airflow.sdk.definitions.context": _CONTEXT,
    "airflow.sdk.definitions.dag": _DAG,
    "airflow.sdk.definitions.deadline": _inert("deadlines", _DEADLINE_NAMES),
    "airflow.sdk.definitions.decorators": {**_DAG, **_TASK},
    "airflow.sdk.definitions.edges": _EDGES,
    "airflow.sdk.definitions.param": _PARAM,
    "airflow.sdk.definitions.retry_policy": _RETRY,
    "airflow.sdk.definitions.taskgroup": _GROUP,
    "airflow.sdk.definitions.template": _LITERAL,
    "airflow.sdk.definitions.variable": _VARIABLE,
    "airflow.sdk.definitions.xcom_arg": _XCOM,
    "airflow.sdk.exceptions": _EXCEPTIONS,
    "airflow.sdk.execution_time": {},
    "airflow.sdk.execution_time.context": {"NEVER_EXPIRE": _SDK["NEVER_EXPIRE"]},
    "airflow.sdk.timezone": _TIMEZONE,
    "airflow.sdk.types": {**_TASK_INSTANCE, **_NOTIFIER},
    "airflow.exceptions": {**_EXCEPTIONS, **_from("liteflow.airflow.exceptions", "AirflowRescheduleException")},
    "airflow.configuration": _CONF,
    "airflow.datasets": _inert("assets", _ASSET_NAMES),
    "airflow.decorators": {**_DAG, **_TASK},
    "airflow.decorators.base": {},
    "airflow.hooks": {},
    "airflow.hooks.base": _HOOK,
    "airflow.macros": _MACRO_NAMES,
    "airflow.models": {
        **_DAG, **_OPERATOR, **_VARIABLE, **_CONNECTION, **_PARAM, **_XCOM, **_TASK_INSTANCE, **_XCOM_MODEL, **_EDGES,
        "DagBag": Missing("liteflow.airflow.load_dags(path) gives the dags of a file"),
        "TaskReschedule": Missing(""), "DagModel": Missing("liteflow.read_session(path) reads the history"),
    },
    "airflow.models.baseoperator": {**_OPERATOR, **_EDGES},
    "airflow.models.connection": _CONNECTION,
    "airflow.models.dag": _DAG,
    "airflow.models.dagrun": _TASK_INSTANCE,
    "airflow.models.expandinput": {},
    "airflow.models.param": _PARAM,
    "airflow.models.taskinstance": _TASK_INSTANCE,
    "airflow.models.variable": _VARIABLE,
    "airflow.models.xcom": _XCOM_MODEL,
    "airflow.models.xcom_arg": _XCOM,
    "airflow.notifications": {},
    "airflow.notifications.basenotifier": _NOTIFIER,
    "airflow.operators": {},
    "airflow.operators.bash": _BASH,
    "airflow.operators.branch": _BRANCH,
    "airflow.operators.datetime": _BRANCH_DATE,
    "airflow.operators.empty": _EMPTY,
    "airflow.operators.latest_only": _LATEST,
    "airflow.operators.python": _PYTHON,
    "airflow.operators.trigger_dagrun": _TRIGGER,
    "airflow.operators.weekday": _BRANCH_DAY,
    "airflow.providers": {},
    "airflow.providers.common": {},
    "airflow.providers.common.compat": {},
    "airflow.providers.common.compat.sdk": {**_SDK, **_EXCEPTIONS, **_from("liteflow.airflow", "timezone")},
    "airflow.providers.common.compat.standard": {},
    "airflow.providers.common.compat.standard.operators": _PYTHON,
    "airflow.providers.standard": {},
    "airflow.providers.standard.decorators": {},
    "airflow.providers.standard.hooks": {},
    "airflow.providers.standard.hooks.filesystem": _from("liteflow.operators", "FSHook"),
    "airflow.providers.standard.hooks.subprocess": {"SubprocessHook": Missing("subprocess.run() of Python, or BashOperator")},
    "airflow.providers.standard.operators": {},
    "airflow.providers.standard.operators.bash": _BASH,
    "airflow.providers.standard.operators.branch": _BRANCH,
    "airflow.providers.standard.operators.datetime": _BRANCH_DATE,
    "airflow.providers.standard.operators.empty": _EMPTY,
    "airflow.providers.standard.operators.hitl": _all("ApprovalOperator HITLBranchOperator HITLEntryOperator HITLOperator", _HITL),
    "airflow.providers.standard.operators.latest_only": _LATEST,
    "airflow.providers.standard.operators.python": _PYTHON,
    "airflow.providers.standard.operators.smooth": {"SmoothOperator": Missing("EmptyOperator, and a song of your own")},
    "airflow.providers.standard.operators.trigger_dagrun": _TRIGGER,
    "airflow.providers.standard.operators.weekday": _BRANCH_DAY,
    "airflow.providers.standard.sensors": {},
    "airflow.providers.standard.sensors.bash": _BASH_SENSOR,
    "airflow.providers.standard.sensors.date_time": _DATE_SENSORS,
    "airflow.providers.standard.sensors.external_task": _EXTERNAL,
    "airflow.providers.standard.sensors.filesystem": _FILE_SENSOR,
    "airflow.providers.standard.sensors.python": _PYTHON_SENSOR,
    "airflow.providers.standard.sensors.time": _TIME_SENSORS,
    "airflow.providers.standard.sensors.time_delta": _DELTA_SENSORS,
    "airflow.providers.standard.sensors.weekday": _DAY_SENSOR,
    "airflow.providers.standard.triggers": {},
    "airflow.providers.standard.triggers.external_task": _all("WorkflowTrigger DagStateTrigger", _TRIGGERS),
    "airflow.providers.standard.triggers.file": _all("FileTrigger FileDeleteTrigger DirectoryFileDeleteTrigger", _TRIGGERS),
    "airflow.providers.standard.triggers.temporal": _all("DateTimeTrigger TimeDeltaTrigger", _TRIGGERS),
    "airflow.providers.standard.utils": {},
    "airflow.providers.standard.utils.skipmixin": _BRANCH,
    "airflow.providers.standard.utils.weekday": _WEEKDAY,
    "airflow.sensors": {},
    "airflow.sensors.base": {**_SENSOR, **_POKE_ONLY},
    "airflow.sensors.bash": _BASH_SENSOR,
    "airflow.sensors.date_time": _DATE_SENSORS,
    "airflow.sensors.external_task": _EXTERNAL,
    "airflow.sensors.filesystem": _FILE_SENSOR,
    "airflow.sensors.python": _PYTHON_SENSOR,
    "airflow.sensors.time_delta": _DELTA_SENSORS,
    "airflow.sensors.time_sensor": _TIME_SENSORS,
    "airflow.sensors.weekday": _DAY_SENSOR,
    "airflow.task": {},
    "airflow.task.trigger_rule": _RULE,
    "airflow.task.weight_rule": _WEIGHT,
    "airflow.timetables": {},
    "airflow.timetables.assets": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.timetables.base": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.timetables.events": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.timetables.interval": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.timetables.simple": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.timetables.trigger": _inert("timetables", _TIMETABLE_NAMES),
    "airflow.utils": _from("liteflow.airflow", "timezone"),
    "airflow.utils.context": _CONTEXT,
    "airflow.utils.dates": {"days_ago": Missing("a date, as datetime(2026, 1, 1) (Airflow 3 has it no more either)")},
    "airflow.utils.edgemodifier": _EDGES,
    "airflow.utils.helpers": _EDGES,
    "airflow.utils.session": {"provide_session": Missing("liteflow.read_session(path) reads the history")},
    "airflow.utils.state": _STATE,
    "airflow.utils.task_group": _GROUP,
    "airflow.utils.timezone": _TIMEZONE,
    "airflow.utils.trigger_rule": _RULE,
    "airflow.utils.types": _from("liteflow.airflow.values", "DagRunType"),
    "airflow.utils.weekday": _WEEKDAY,
    "airflow.utils.weight_rule": _WEIGHT,
}  # fmt: skip
"""By Airflow's module: the names that can be imported from it."""

INSTEAD_OF_MODULES: Mapping[str, str] = {
    "airflow.example_dags": "these modules are Airflow's own examples; copy what is needed beside the dag file",
    "airflow.io": "open the file in the task, with pathlib or fsspec",
    "airflow.models.dagbag": "liteflow.airflow.load_dags(path) gives the dags of a file",
    "airflow.plugins_manager": "liteflow has no plugins: import what is needed in the dag file",
    "airflow.providers": "call the service's own client library in a @task",
    "airflow.providers.standard.triggers": _TRIGGERS.instead,
    "airflow.settings": "liteflow.read_session(path) reads the history",
    "airflow.triggers": _TRIGGERS.instead,
}
"""What exists instead of modules that are not there; the longest beginning of a module's name counts."""


def is_module(module: str) -> bool:
    """Whether Airflow's module of that dotted name can be imported here."""
    return module in MODULES


def lookup(module: str, name: str) -> Entry | None:
    """What `from module import name` gives here; None if neither is known."""
    return MODULES.get(module, {}).get(name)


def instead_of(module: str) -> str:
    """What exists instead of a module that is not there; empty if nothing."""
    parts = module.split(".")
    beginnings = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((INSTEAD_OF_MODULES[one] for one in beginnings if one in INSTEAD_OF_MODULES), "")


def modules_with(name: str) -> list[str]:
    """Airflow's modules that have the name here, the shortest first."""
    having = [one for one, names in MODULES.items() if isinstance(names.get(name), Provided | Inert)]
    return sorted(having, key=lambda one: (not one.startswith("airflow.sdk"), len(one)))
