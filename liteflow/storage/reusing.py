"""Beginning a run with what another run of the same dag has made: the statements. Values are copied as they are stored,
inside the database, and never decoded."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, insert, select, update

from liteflow.states import EndReason, TaskInstanceState
from liteflow.storage.statements import in_groups
from liteflow.storage.tables import TASK_INSTANCE, XCOM


def encodings_of(connection: Connection, pks: Collection[int], keys: Collection[str]) -> dict[tuple[int, str], str]:
    """The encodings of the XComs of these keys: (task instance's key, key) to encoding."""
    xcom = XCOM.c
    return {
        (pk, key): encoding
        for some in in_groups(list(pks))
        for pk, key, encoding in connection.execute(
            select(xcom.task_instance_pk, xcom.key, xcom.encoding).where(
                xcom.task_instance_pk.in_(some), xcom.key.in_(list(keys))
            )
        )
    }


def reuse(
    connection: Connection,
    source_pk: int,
    run_pk: int,
    rows: Sequence[tuple[int, TaskInstanceState]],
    now_us: int,
) -> None:
    """Give task instances of a run (key and state) the end and the XComs that they have in the run `source_pk`.

    Those are found by task id and map index. No try is copied: nothing of it ran in this run.
    """
    ti, old = TASK_INSTANCE.c, TASK_INSTANCE.alias().c
    is_same = (old.run_pk == source_pk) & (old.task_id == ti.task_id) & (old.map_index == ti.map_index)
    label = select(old.rendered_map_index).where(is_same).scalar_subquery()
    for state in sorted({state for _, state in rows}):
        for some in in_groups([pk for pk, one in rows if one is state]):
            connection.execute(
                update(TASK_INSTANCE)
                .where(ti.id.in_(some), ti.run_pk == run_pk)
                .values(state=state, end_reason=EndReason.REUSED, ended_at=now_us, rendered_map_index=label)
            )
            copied = (XCOM.c.key, XCOM.c.encoding, XCOM.c.size_bytes, XCOM.c.sha256, XCOM.c.value)
            connection.execute(
                insert(XCOM).from_select(
                    ["task_instance_pk", *(column.name for column in copied)],
                    select(ti.id, *copied)
                    .select_from(TASK_INSTANCE)
                    .join(old.id.table, is_same)
                    .join(XCOM, XCOM.c.task_instance_pk == old.id)
                    .where(ti.id.in_(some)),
                )
            )
