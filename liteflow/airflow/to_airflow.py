"""From liteflow to Airflow: the lines of a dag file that would not load there, or would do something else.

By the text alone. Each rule was tried in Airflow 3.3.2 with the standard provider 1.21.0; where one comes from is said
beside it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from liteflow.airflow import names
from liteflow.airflow.dagcode import DAG, OPERATOR, TASK, DagCode, OptionCall
from liteflow.airflow.findings import ERROR, NOTE, Finding
from liteflow.airflow.reading import (
    Source,
    defaults_of,
    is_false,
    number_of,
    parameters_of,
    text_of,
)
from liteflow.airflow.values_there import CHANGED, LISTED, doubts_of_returns
from liteflow.authoring.context import CONTEXT_KEYS
from liteflow.authoring.options import PROCESSES, THREADS

_RENAMED = {
    "liteflow.Dag": ("airflow.sdk", "DAG"),
    "liteflow.RunState": ("airflow.sdk", "DagRunState"),
    "liteflow.TaskInstanceState": ("airflow.sdk", "TaskInstanceState"),
    "liteflow.SkipTask": ("airflow.sdk.exceptions", "AirflowSkipException"),
    "liteflow.FailTask": ("airflow.sdk.exceptions", "AirflowFailException"),
    "liteflow.errors.SkipTask": ("airflow.sdk.exceptions", "AirflowSkipException"),
    "liteflow.errors.FailTask": ("airflow.sdk.exceptions", "AirflowFailException"),
    "liteflow.errors.TaskKilled": ("airflow.sdk.exceptions", "AirflowTaskTimeout"),
}
_UNKNOWN_THERE = {
    "liteflow.DagRun": "dag.test() and the database give airflow.models.DagRun there; leave the import out",
    "liteflow.DagWarning": "Airflow does not warn of these; leave it out",
    "liteflow.EndReason": "Airflow has only states; leave it out",
    "liteflow.ExecutorService": "the scheduler runs dags there; start runs with `airflow dags trigger`",
    "liteflow.LiteflowError": "catch AirflowException of airflow.sdk.exceptions",
    "liteflow.RunEvent": "the scheduler runs dags there; callbacks tell of changes",
    "liteflow.RunHandle": "the scheduler runs dags there; ask its REST API",
    "liteflow.Task": "BaseOperator of airflow.sdk is what tasks are there",
    "liteflow.read_session": "ask Airflow's REST API; its database is not for dag files",
}

_DAG_ONLY_HERE = {
    "db_path": "Airflow has a database of its own",
    "durability": "Airflow has no such choice",
    "max_crashes": "Airflow's scheduler decides what becomes of a task whose process died",
    "retain_runs": "use `airflow db clean` there",
    "retain_days": "use `airflow db clean` there",
}
_TASK_ONLY_HERE = {
    "timeout": "write execution_timeout=timedelta(...)",
    "kill_grace_s": "leave it out: a timeout raises AirflowTaskTimeout in the task there",
    "log_cap_bytes": "leave it out: logs are files there",
}
_TIMEDELTAS = {DAG: ("dagrun_timeout",), TASK: ("execution_timeout",), OPERATOR: ("execution_timeout",)}
"""Options that have to be a timedelta (DAG and BaseOperator raise otherwise); others take seconds too."""

_RUN_CALLS = {
    "run": "dag.test() runs it once in the process there, and the scheduler otherwise",
    "arun": "dag.test() runs it once in the process there, and the scheduler otherwise",
    "resume": "clear the tasks that failed there",
    "runs": "ask Airflow's REST API",
    "latest_run": "ask Airflow's REST API",
    "declared_params": "dag.params there",
    "db_path": "Airflow has a database of its own",
}
"""What a Dag has and Airflow's DAG has not."""

_RUN_ATTRIBUTES = {
    "xcom": "run.get_task_instance(task_id).xcom_pull(task_ids=task_id)",
    "task_instances": "run.get_task_instances()",
    "task_instance": "run.get_task_instance(task_id)",
    "started_at": "run.start_date",
    "ended_at": "run.end_date",
    **dict.fromkeys(["tries", "logs", "end_reason", "cancel", "cancel_task", "refresh", "clear", "mark", "xcoms"], ""),
}
"""What a run has here and Airflow's DagRun, as dag.test() gives it, has not."""

_TEST_ONLY_HERE = ("mock", "fail", "params", "run_id")

FILLED_THERE = frozenset(
    [
        "conn",
        "dag",
        "dag_run",
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "inlet_events",
        "inlets",
        "logical_date",
        "macros",
        "map_index_template",
        "outlet_events",
        "outlets",
        "params",
        "partition_date",
        "partition_key",
        "prev_data_interval_end_success",
        "prev_data_interval_start_success",
        "prev_end_date_success",
        "prev_start_date_success",
        "run_id",
        "task",
        "task_instance",
        "task_instance_key_str",
        "task_reschedule_count",
        "task_state_store",
        "templates_dict",
        "ti",
        "triggering_asset_events",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "var",
    ]
)
"""The keys of the context of a running task in Airflow, as a task itself listed them."""

_KNOWN_THERE = FILLED_THERE | CONTEXT_KEYS | {"exception", "reason", "expanded_ti_count", "asset_state_store"}
"""Names that Airflow takes for keys of the context where it makes tasks (KNOWN_CONTEXT_KEYS)."""

_INSTEAD_OF_KEYS = {"try_number": "take ti and use ti.try_number", "expanded_ti_count": "", "test_mode": ""}


def name_there(meaning: str) -> tuple[str, str] | None:
    """Airflow's module and name for what liteflow calls `liteflow.task`, `liteflow.operators.BashOperator`, ..."""
    if meaning in _RENAMED:
        return _RENAMED[meaning]
    module, _, name = meaning.rpartition(".")
    for there, entries in names.MODULES.items():
        if there in ("airflow.sdk", "airflow.sdk.exceptions") or there.startswith("airflow.providers.standard."):
            entry = entries.get(name)
            if (
                isinstance(entry, names.Provided)
                and entry.name == name
                and entry.module in (module, f"{module}.{name.lower()}s")
            ):
                return there, name
    if module == "liteflow" and name in ("Variable", "Connection", "BaseHook"):
        return "airflow.sdk", name
    return None


def _canonical(meaning: str) -> str | None:
    for beginning in ("liteflow.operators.", "liteflow."):
        if meaning.startswith(beginning):
            return meaning.removeprefix(beginning)
    return None


class ToAirflow:
    """Collects what the text of one file shows."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.code = DagCode(source, _canonical)

    def findings(self) -> Iterator[Finding]:
        """All of them, in no order."""
        yield from self._imports()
        yield from self._options()
        yield from self._default_args()
        yield from self._retries()
        yield from self._ids()
        yield from self._calls_of_dags()
        yield from self._dags_that_nobody_makes()
        yield from self._task_functions()
        yield from self._plain_calls()
        yield from self._arguments()
        yield from self._context_keys()

    def _found(self, node: ast.AST | int, rule: str, message: str, advice: str = "", severity: str = ERROR) -> Finding:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return Finding(self.source.path, line, rule, message, advice, severity)

    # Imports

    def _imports(self) -> Iterator[Finding]:
        for node in self.source.nodes:
            if self.source.never_runs(node) or self.source.is_guarded(node):
                continue  # Airflow imports the file, and does not come here
            if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
                yield from self._import_from(node)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_ours(alias.name):
                        yield self._import(node, alias)
            elif isinstance(node, ast.Attribute):
                yield from self._attribute(node)

    def _import_from(self, node: ast.ImportFrom) -> Iterator[Finding]:
        there: dict[str, list[str]] = {}
        for alias in node.names:
            meaning = f"{node.module}.{alias.name}"
            found = name_there(meaning)
            if found is None:
                advice = _UNKNOWN_THERE.get(meaning, "leave it out")
                yield self._found(
                    node, "import-unknown", f"Airflow has nothing like {alias.name} of {node.module}", advice
                )
                continue
            module, name = found
            bound = alias.asname or alias.name
            there.setdefault(module, []).append(name if name == bound else f"{name} as {bound}")
        if there:
            advice = "; ".join(f"from {module} import {', '.join(found)}" for module, found in there.items())
            yield self._found(node, "import", f"Airflow has no module {node.module}", f"write: {advice}")

    def _import(self, node: ast.Import, alias: ast.alias) -> Finding:
        advice = "import each name from airflow.sdk, or where it is"
        if alias.name == "liteflow":
            advice = f"write: import airflow.sdk as {alias.asname or 'liteflow'}"
        return self._found(node, "import", f"Airflow has no module {alias.name}", advice)

    def _attribute(self, node: ast.Attribute) -> Iterator[Finding]:
        """`lf.Dag`, which `import airflow.sdk as lf` does not give."""
        meaning = self.source.meaning(node)
        if self.source.meaning(node.value) != "liteflow":
            return
        found = name_there(meaning)
        if found is None:
            yield self._found(
                node, "import-unknown", f"Airflow has nothing like {meaning}", _UNKNOWN_THERE.get(meaning, "")
            )
        elif found != ("airflow.sdk", node.attr):
            yield self._found(
                node, "import", f"airflow.sdk has no {node.attr}", f"write: from {found[0]} import {found[1]}"
            )

    # Options

    def _options(self) -> Iterator[Finding]:
        for call in self.code.option_calls:
            for name, value in call.options.items():
                only_here = _DAG_ONLY_HERE if call.sort == DAG else _TASK_ONLY_HERE
                if name in only_here and not (name == "timeout" and _has_own_timeout(call)):
                    what = "DAG" if call.sort == DAG else "a task"
                    yield self._found(
                        value, f"{_word(call)}-option", f"{what} has no option {name} in Airflow", only_here[name]
                    )
                elif name in _TIMEDELTAS[call.sort] and self._number(value) is not None:
                    message = f"{name} has to be a timedelta in Airflow; seconds are a TypeError or ValueError there"
                    yield self._found(value, "timedelta", message, f"write {name}=timedelta(seconds=...)")
                elif name == "execution_timeout" and not _is_none(value):
                    yield self._kills(value)
                elif name == "executor" and text_of(value) in (PROCESSES, THREADS):
                    yield self._executor(value)
                elif name == "pool" and text_of(value) not in (None, "default_pool"):
                    advice = f"airflow pools set {text_of(value)} SLOTS DESCRIPTION"
                    yield self._found(
                        value, "pool", f"the pool {text_of(value)!r} has to be made in Airflow too", advice, NOTE
                    )
            if call.sort == DAG:
                yield from self._dag_options(call)

    def _executor(self, node: ast.AST) -> Finding:
        message = f"Airflow has no executor {text_of(node)!r}"
        return self._found(node, "task-option", message, "leave it out, or name one that is configured there")

    def _kills(self, node: ast.AST) -> Finding:
        message = (
            "a timeout raises AirflowTaskTimeout in the task there, which code that catches it, or C code, holds up"
        )
        return self._found(node, "timeout-kills", message, "", NOTE)

    def _number(self, node: ast.AST) -> float | None:
        return number_of(self.source.value(node))

    def _dag_options(self, call: OptionCall) -> Iterator[Finding]:
        options = call.options
        tags = self.source.value(options["tags"]) if "tags" in options else None
        if isinstance(tags, ast.List | ast.Tuple | ast.Set):
            for tag in tags.elts:
                if len(text_of(tag) or "") > 100:  # TAG_MAX_LEN
                    yield self._found(tag, "dag-option", "a tag has at most 100 characters in Airflow", "shorten it")
        scheduled = "schedule" in options and not _is_none(options["schedule"])
        for name, value in (self.source.keywords(options["params"]) or {}).items() if "params" in options else ():
            yield from self._param(name, value, scheduled)

    def _param(self, name: str, node: ast.expr, scheduled: bool) -> Iterator[Finding]:
        """Of ParamsDict, which takes only what json.dumps takes, and of DAG._validate_params."""
        value = self.source.value(node)
        is_param = isinstance(value, ast.Call) and self.code.name(value.func) == "Param"
        default: ast.AST | None = value
        if is_param:
            assert isinstance(value, ast.Call)
            given = [*value.args[:1], *(word.value for word in value.keywords if word.arg == "default")]
            default = self.source.value(given[0]) if given else None
        if default is None:
            if scheduled:
                message = f"param {name!r} has no default: Airflow refuses that in a dag with a schedule"
                yield self._found(node, "param-default", message, "give it a default, or leave the schedule out")
        elif _is_no_json(self.source, default):
            message = f"the default of param {name!r} is nothing that JSON has, and Airflow refuses it"
            yield self._found(node, "param-json", message, "give it as text, and make the value in the task")

    def _default_args(self) -> Iterator[Finding]:
        for _, given in self.code.default_args:
            for name, value in given.items():
                if name == "execution_timeout" and self._number(value) is not None:
                    message = "execution_timeout has to be a timedelta in Airflow; seconds are a ValueError there"
                    yield self._found(value, "timedelta", message, "write timedelta(seconds=...)")
                elif name == "executor" and text_of(value) in (PROCESSES, THREADS):
                    yield self._executor(value)
                elif name in _TASK_ONLY_HERE:
                    # Airflow passes over what an operator does not have; sensors do have a `timeout` of their own.
                    but = " by all but sensors" if name == "timeout" else ""
                    message = f"{name} in default_args is passed over{but} in Airflow"
                    yield self._found(value, "task-option", message, _TASK_ONLY_HERE[name])

    def _retries(self) -> Iterator[Finding]:
        """`retry_delay` is 300 s in Airflow (`[core] default_task_retry_delay`), 0 s here."""
        message = "retries without a retry_delay wait 300 seconds in Airflow, none here"
        advice = "write retry_delay=timedelta(seconds=...), or 0"
        if any("retry_delay" in given for _, given in self.code.default_args):
            return
        delayed = {call.function for call in self.code.option_calls if "retry_delay" in call.options} - {""}
        for call in self.code.option_calls:
            retries = call.options.get("retries")
            if call.sort == DAG or retries is None or call.may_have_more or "retry_delay" in call.options:
                continue
            if not is_false(self.source.value(retries)) and call.function not in delayed:
                yield self._found(retries, "retry-delay", message, advice)
        for _, given in self.code.default_args:
            if "retries" in given and not is_false(self.source.value(given["retries"])):
                yield self._found(given["retries"], "retry-delay", message, advice)

    # Ids

    def _ids(self) -> Iterator[Finding]:
        """GROUP_KEY_REGEX and validate_group_key: no dots, 200 characters."""
        for call in self.source.calls():
            if self.code.name(call.func) in ("TaskGroup", "task_group"):
                given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "group_id")]
                text = text_of(self.source.value(given[0])) if given else None
                if text is not None and "." in text:
                    yield self._found(
                        call, "group-id", f"group id {text!r} has a dot, which Airflow refuses", "use _ or -"
                    )
                elif text is not None and len(text) > 200:
                    yield self._found(
                        call, "group-id", "a group id has at most 200 characters in Airflow", "shorten it"
                    )
            elif self.code.task_kind(call.func) is not None and call.args:
                yield from self._wrapped(call)

    def _wrapped(self, call: ast.Call) -> Iterator[Finding]:
        """`task(...)` around what is no plain function. Airflow takes the id and the annotations of the function."""
        wrapped = self.source.value(call.args[0])
        if isinstance(wrapped, ast.Lambda) and not any(word.arg == "task_id" for word in call.keywords):
            yield self._found(call, "task-id", "a lambda gives no task id in Airflow", 'write task(..., task_id="...")')
        elif isinstance(wrapped, ast.Call) and self.source.meaning(wrapped.func) == "functools.partial":
            yield self._found(
                call, "callable", "Airflow makes no task out of a functools.partial", "write a function with def"
            )
        elif (
            isinstance(wrapped, ast.Call)
            and isinstance(wrapped.func, ast.Name)
            and wrapped.func.id in self.source.classes
        ):
            message = "Airflow makes no task out of an object that can be called"
            yield self._found(call, "callable", message, "write a function with def, or pass the method")

    # Dags

    def _calls_of_dags(self) -> Iterator[Finding]:
        runs: set[str] = set()
        for node in self.source.nodes:
            if isinstance(node, ast.Assign) and self._runs_dag(node.value):
                runs |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for node in self.source.nodes:
            if not isinstance(node, ast.Attribute):
                continue
            held = node.value.id if isinstance(node.value, ast.Name) else ""
            if self.code.name(node) in ("Dag.load", "DAG.load"):
                yield self._found(node, "dag-call", "Airflow's DAG has no load()", "ask Airflow's REST API")
            elif held in self.code.dag_names and node.attr in _RUN_CALLS:
                where = " when it is run as a script" if self.source.is_guarded(node) else ""
                message = f"Airflow's DAG has no {node.attr}: an AttributeError{where}"
                yield self._found(node, "dag-call", message, _RUN_CALLS[node.attr])
            elif held in self.code.dag_names and node.attr == "test":
                yield from self._test(node)
            elif held in runs and node.attr in _RUN_ATTRIBUTES:
                instead = _RUN_ATTRIBUTES[node.attr]
                message = f"a run of Airflow's dag.test() has no {node.attr}" + (
                    "() to call" if node.attr == "task_instances" else ""
                )
                yield self._found(node, "run-attribute", message, f"write {instead}" if instead else "leave it out")

    def _runs_dag(self, node: ast.AST) -> bool:
        node = node.value if isinstance(node, ast.Await) else node
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        held = node.func.value
        return (
            isinstance(held, ast.Name)
            and held.id in self.code.dag_names
            and node.func.attr in ("run", "arun", "test", "resume")
        )

    def _test(self, node: ast.Attribute) -> Iterator[Finding]:
        call = self.source.parents.get(node)
        if isinstance(call, ast.Call) and call.func is node:
            for word in call.keywords:
                if word.arg in _TEST_ONLY_HERE:
                    advice = "write run_conf=..." if word.arg == "params" else "leave it out"
                    yield self._found(word.value, "dag-call", f"dag.test() has no {word.arg} in Airflow", advice)

    def _dags_that_nobody_makes(self) -> Iterator[Finding]:
        for call in self.code.option_calls:
            if call.sort == DAG and self.source.is_guarded(call.node):
                message = "a dag that is made under the guard is not there when Airflow imports the file"
                yield self._found(call.node, "dag-not-found", message, "make it at the level of the module")
        for name, function in self.code.dag_functions.items():
            used = [one for one in self.source.nodes if isinstance(one, ast.Name) and one.id == name]
            if not [one for one in used if not self.source.is_guarded(one)]:
                message = f"{name} is never called when Airflow imports the file: there is no dag then"
                yield self._found(function, "dag-not-found", message, f"write {name}() at the end of the file")

    # Tasks

    def _task_functions(self) -> Iterator[Finding]:
        for name, (function, kind) in self.code.task_functions.items():
            defaults = defaults_of(function)
            for parameter, node in parameters_of(function).items():
                default = defaults.get(parameter)
                if parameter in _INSTEAD_OF_KEYS and default is None:
                    message = (
                        f"Airflow does not fill in {parameter}: it is no key of the context of a running task there"
                    )
                    if not self._is_given(name, parameter):
                        yield self._found(node, "context-key", message, _INSTEAD_OF_KEYS[parameter])
                elif parameter in _KNOWN_THERE and default is not None and not _is_none(default):
                    # DecoratedOperator: "Context key parameter x can't have a default other than None"
                    message = f"{parameter} is a key of Airflow's context, which may have no default but None"
                    yield self._found(node, "context-default", message, "call the parameter something else")
                elif (
                    parameter in FILLED_THERE - CONTEXT_KEYS
                    and default is not None
                    and not self._is_given(name, parameter)
                ):
                    message = f"Airflow fills in {parameter}, a key of its context; here it is the default"
                    yield self._found(node, "context-key", message, "call the parameter something else")
            if kind in ("", "external_python", "virtualenv") and not self._keeps_result_back(name):
                for line, doubt in doubts_of_returns(self.source, function):
                    yield self._found(
                        line, doubt.rule, f"task {name} {doubt.text}", _VALUE_ADVICE.get(doubt.rule, _CONVERT)
                    )

    def _keeps_result_back(self, name: str) -> bool:
        calls = [call for call in self.code.option_calls if call.function == name]
        return any("do_xcom_push" in call.options and is_false(call.options["do_xcom_push"]) for call in calls)

    def _calls_of(self, name: str) -> list[ast.Call]:
        """Calls of the task function of that name, those through `.override(...)` too."""
        found = []
        for call in self.source.calls():
            func = call.func
            if isinstance(func, ast.Call) and isinstance(func.func, ast.Attribute) and func.func.attr == "override":
                func = func.func.value
            if isinstance(func, ast.Name) and func.id == name:
                found.append(call)
        return found

    def _is_given(self, name: str, parameter: str) -> bool:
        position = self.code.own_parameters(name).index(parameter)
        calls = self._calls_of(name)
        return bool(calls) and all(
            len(call.args) > position or any(word.arg in (parameter, None) for word in call.keywords) for call in calls
        )

    def _plain_calls(self) -> Iterator[Finding]:
        """Outside a dag a decorated function is the plain function here; in Airflow it always gives an XComArg."""
        for name in self.code.task_functions:
            for call in self._calls_of(name):
                function = self.source.function(call)
                if function is not None and self.source.is_local(function, name):
                    continue
                in_task = self.code.is_task_body(function)
                if in_task or (function is None and not self.code.is_in_dag(call)):
                    message = (
                        f"{name} is called as a plain function; in Airflow that gives an XComArg, and nothing runs"
                    )
                    yield self._found(call, "plain-call", message, f"write {name}.function(...)")

    def _arguments(self) -> Iterator[Finding]:
        for name in self.code.task_functions:
            parameters = self.code.own_parameters(name)
            for call in self._calls_of(name):
                for parameter, argument in zip(parameters, call.args, strict=False):
                    if isinstance(argument, ast.Starred):
                        break
                    if parameter in FILLED_THERE:
                        # "The key 'ds' in args is a part of kwargs and therefore reserved", when the task runs
                        message = f"{parameter} is a key of Airflow's context, and cannot be given by position there"
                        yield self._found(argument, "context-argument", message, f"write {parameter}=...")
                for given in [*call.args, *(word.value for word in call.keywords)]:
                    for node in ast.walk(given):
                        if isinstance(node, ast.Set) and any(map(self._is_task_value, node.elts)):
                            message = "values of tasks cannot be in a set in Airflow: an XComArg is not hashable there"
                            yield self._found(node, "set-argument", message, "write a list")

    def _is_task_value(self, node: ast.AST) -> bool:
        node = self.source.value(node)
        return (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.code.task_functions
        )

    def _context_keys(self) -> Iterator[Finding]:
        contexts = {"context"}
        for node in self.source.nodes:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and self.code.name(node.value.func) == "get_current_context"
            ):
                contexts |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for node in self.source.nodes:
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in contexts:
                key = text_of(node.slice)
                if key in _INSTEAD_OF_KEYS and self.source.function(node) is not None:
                    message = f"the context of a running task in Airflow has no key {key!r}: a KeyError"
                    advice = 'write context["ti"].try_number' if key == "try_number" else ""
                    yield self._found(node, "context-key", message, advice)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "xcom_pull":
                for word in node.keywords:
                    if word.arg == "default" and not _is_none(word.value):
                        message = "Airflow does not look at the default of xcom_pull: what is missing is None there"
                        yield self._found(word.value, "xcom-default", message, "ask whether the value is None")


_CONVERT = "return text or numbers, or what is made of them, and convert where it is used"
_VALUE_ADVICE = {
    CHANGED: "convert it where it is used",
    LISTED: "name the class in [core] allowed_deserialization_classes, or return a dict",
}


def _is_ours(module: str) -> bool:
    return module == "liteflow" or module.startswith("liteflow.")


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _word(call: OptionCall) -> str:
    return "dag" if call.sort == DAG else "task"


def _has_own_timeout(call: OptionCall) -> bool:
    """Sensors have an option `timeout` in Airflow too."""
    return (
        call.kind == "sensor"
        or call.kind.endswith("Sensor")
        or (call.sort == OPERATOR and not call.kind.endswith("Operator"))
    )


def _is_no_json(source: Source, node: ast.AST) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bytes | complex)
    if isinstance(node, ast.Call):
        meaning = source.meaning(node.func) or (node.func.id if isinstance(node.func, ast.Name) else "")
        ends = ("datetime.datetime", "datetime.date", "datetime.timedelta", "pathlib.Path", "decimal.Decimal")
        return meaning in (*ends, "set", "frozenset", "bytes") or meaning.startswith("datetime.datetime.")
    if isinstance(node, ast.List | ast.Tuple):
        return any(_is_no_json(source, source.value(one)) for one in node.elts)
    return False
