"""From liteflow to Airflow, once more: what the dags themselves show, once the file has been loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from liteflow.airflow.findings import ERROR, NOTE, Finding
from liteflow.airflow.reading import Function, Source, may_reach_end, returns_of
from liteflow.authoring.mapping import Items, leaves_of
from liteflow.authoring.task import BRANCH, PYTHON, Task

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag

MOST_TASKS_THERE = 16
"""`max_active_tasks` of a dag in Airflow, unless it says otherwise."""

_NAMED_TAGS = {"enum": "an Enum", "PosixPath": "a Path", "PurePosixPath": "a Path", "WindowsPath": "a Path"}
_REFUSED_TAGS = frozenset(["bytes", "time", "enum", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])
"""Tags of the stored JSON whose values Airflow's serde refuses; see `values_there.py`."""


def findings_of_dags(dags: Iterable[Dag], source: Source) -> Iterator[Finding]:
    """What the dags of a file show that the text did not."""
    for dag in dags:
        for found in (_groups(dag, source), _reducers(dag, source), _limits(dag, source)):
            yield from found


def _written_in(dag: Dag, source: Source) -> list[Task]:
    """The tasks that are made in the file itself: a dag may come from a module that it imports."""
    return [task for task in dag.tasks if task.place.file == source.path]


def _groups(dag: Dag, source: Source) -> Iterator[Finding]:
    for task in _written_in(dag, source):
        if task.kind == BRANCH and task.mapped_group is not None:
            message = (
                f"the branch {task.task_id} in a mapped group skips nothing in Airflow 3.3.2: all that is below it runs"
            )
            yield Finding(
                source.path, task.place.line, "mapped-branch", message, "map the tasks, and branch outside of the group"
            )
        if task.options.depends_on_past:
            message = f"{task.task_id} waits for ever in Airflow if the run before never lets it go, here not"
            yield Finding(source.path, task.place.line, "depends-on-past", message, "", NOTE)


def _limits(dag: Dag, source: Source) -> Iterator[Finding]:
    if dag.place.file != source.path or dag.max_active_tasks is not None:
        return
    if len(dag.tasks) > MOST_TASKS_THERE or any(task.is_mapped for task in dag.tasks):
        message = f"of a run at most {MOST_TASKS_THERE} tasks go at once in Airflow, unless max_active_tasks says more"
        yield Finding(source.path, dag.place.line, "max-active-tasks", message, "", NOTE)


def _reducers(dag: Dag, source: Source) -> Iterator[Finding]:
    """Airflow stores no None: of three instances, one of which returns None, a reducer gets two values there."""
    readers: dict[str, list[str]] = {}
    for task in dag.tasks:
        for up in _read_by(task):
            readers.setdefault(up, []).append(task.task_id)
    for task in dag.tasks:
        wanting = [name for name in readers.get(task.task_id, ()) if _is_list_for(task, dag.task_dict[name])]
        if not wanting or task.kind != PYTHON or not task.is_mapped:
            continue
        function = _definition(task, source)
        if function is not None and _may_give_none(function):
            message = f"{task.task_id} may return None: Airflow leaves those out of the list that {wanting[0]} gets"
            yield Finding(
                source.path, function.lineno, "none-dropped", message, "return something else in the place of None"
            )


def _read_by(task: Task) -> set[str]:
    """The tasks whose results it reads."""
    found = {one.task_id for one in task.inputs if one.key == "return_value"}
    expand = task.expand_input
    if expand is not None:
        for _, tree in expand.input.sources:
            found |= {
                leaf.task_id for leaf in leaves_of(tree) if isinstance(leaf, Items) and leaf.key == "return_value"
            }
    return found


def _is_list_for(task: Task, reader: Task) -> bool:
    """Whether the reader gets the values of all instances, not those of its own map index."""
    return task.mapped_group is None or reader.mapped_group is not task.mapped_group


def _definition(task: Task, source: Source) -> Function | None:
    """The function of a task in the syntax tree."""
    code = getattr(task.function, "__code__", None)
    if code is None or code.co_filename != source.path:
        return None
    for node in source.nodes:
        if isinstance(node, Function) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first <= code.co_firstlineno <= node.lineno:
                return node
    return None


def _may_give_none(function: Function) -> bool:
    returns = returns_of(function)
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
        return False
    if any(one.value is None or (isinstance(one.value, ast.Constant) and one.value.value is None) for one in returns):
        return True
    annotation = ast.unparse(function.returns) if function.returns is not None else ""
    if annotation:
        return "Optional[" in annotation or "None" in annotation.replace("'", "").split(" | ") or annotation == "None"
    return may_reach_end(function.body)


def findings_of_stored(dag: Dag, xcoms: Iterable[tuple[str, str, str, bytes]], source: Source) -> Iterator[Finding]:
    """What stored values of a run show: task id, key, encoding and data of each. Nothing is unpickled."""
    from liteflow.errors import XComDecodeError
    from liteflow.storage.xcoms import plain_json

    told: dict[tuple[str, str, str], None] = {}
    for task_id, key, encoding, data in xcoms:
        try:
            what = _stored(encoding, data, plain_json)
        except XComDecodeError:
            continue  # NaN, or damaged
        told |= dict.fromkeys((task_id, key, kind) for kind in sorted(what))
    for task_id, key, kind in told:
        task = dag.task_dict.get(task_id)
        line = task.place.line if task is not None else dag.place.line
        message = f"task {task_id} handed on {kind} ({key}) in its last run, which Airflow cannot store as an XCom"
        advice = "return text or numbers, or what is made of them, and convert where it is used"
        yield Finding(source.path, line, "xcom-stored", message, advice, ERROR)


def _stored(encoding: str, data: bytes, plain_json: Any) -> set[str]:
    from liteflow.storage.xcoms import BYTES, ITEMS, PICKLE, EncodedItems

    if encoding == PICKLE:
        return {"a pickle"}
    if encoding == BYTES:
        return {"bytes"}
    if encoding == ITEMS:
        items = EncodedItems(data)
        return {what for number in range(len(items)) for what in _stored(*items.item(number), plain_json)}
    return set(_tagged(plain_json(encoding, data)))


def _tagged(value: Any) -> Iterator[str]:
    """What stands in a document of typed JSON that Airflow's serde refuses."""
    if isinstance(value, list):
        for one in value:
            yield from _tagged(one)
    elif isinstance(value, Mapping):
        tag = value.get("$")
        if tag in _REFUSED_TAGS:
            yield _NAMED_TAGS.get(str(tag), str(tag))
        elif tag == "dataclass":
            return  # by name; the text says what is to be known of it
        for one in value.values():
            yield from _tagged(one)
