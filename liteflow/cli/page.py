"""The page of a run or of a dag, from the database or from code to one text."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from liteflow.cli.drawing import timeline_of

if TYPE_CHECKING:
    from liteflow.authoring.dag import Dag
    from liteflow.storage.history import DagRun

PARAM_CHARACTERS = 2000


def run_page(run: DagRun, *, direction: str) -> str:
    """The run as it stands, as one HTML file that needs nothing else. `direction`: LR or TD."""
    from liteflow.cli.common import state_of
    from liteflow.storage.moments import to_microseconds
    from liteflow.storage.pages import page_instances
    from liteflow.storage.summaries import task_summaries
    from liteflow.visualize.html import Page, html_page
    from liteflow.visualize.picture import run_picture

    with run.history.read() as connection:
        summaries = task_summaries(connection, run.pk)
        instances = page_instances(connection, run.pk)
    picture = run_picture(run.dag_id, run.run_id, state_of(run), summaries)
    dag = run.history.dag(run.dag_id)
    return html_page(
        Page(
            picture=picture,
            direction=direction,
            reason=run.end_reason,
            description=dag.description,
            tags=dag.tags,
            file=dag.file,
            params=_params(run.params_json),
            logical_us=to_microseconds(run.logical_date),
            created_us=to_microseconds(run.created_at),
            started_us=to_microseconds(run.started_at) if run.started_at else None,
            ended_us=to_microseconds(run.ended_at) if run.ended_at else None,
            made_us=time.time_ns() // 1000,
            summaries=summaries,
            instances=instances,
            timeline=timeline_of(run, picture),
        )
    )


def dag_page(dag: Dag, *, direction: str) -> str:
    """A dag from its code, as one HTML file that needs nothing else. `direction`: LR or TD."""
    from liteflow.errors import XComEncodeError
    from liteflow.storage.xcoms import encode, preview
    from liteflow.visualize.html import Page, html_page
    from liteflow.visualize.picture import dag_picture

    def text_of(value: object) -> str:
        try:
            return preview(*encode(value), length=PARAM_CHARACTERS)
        except XComEncodeError:
            return f"<{type(value).__name__}>"

    return html_page(
        Page(
            picture=dag_picture(dag),
            direction=direction,
            description=dag.description,
            tags=dag.tags,
            file=dag.place.file,
            params=[(name, text_of(value)) for name, value in dag.params.items()],
            made_us=time.time_ns() // 1000,
            rules={task.task_id: str(task.trigger_rule.value) for task in dag.tasks},
        )
    )


def _params(text: str) -> list[tuple[str, str]]:
    """The params of a run as text, never decoded: what they name may be a stranger's."""
    from liteflow.storage.xcoms import JSON, preview

    whole = [("", preview(JSON, text.encode("utf-8", "replace"), length=PARAM_CHARACTERS))]
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            return whole
        return [
            (name, preview(JSON, json.dumps(value).encode(), length=PARAM_CHARACTERS)) for name, value in found.items()
        ]
    except (ValueError, RecursionError):
        return whole
