"""What looking and operating need: the slot of a try, where a run came from, how long runs are kept; runs by time.

Revision 0004, after 0003. Columns are added in place, as in 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(length=250).with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("liteflow_dag", sa.Column("retain_runs", sa.Integer(), nullable=True))
    op.add_column("liteflow_dag", sa.Column("retain_days", sa.Float(), nullable=True))
    op.add_column("liteflow_dag_run", sa.Column("rerun_of", ID, nullable=True))
    op.add_column("liteflow_task_instance", sa.Column("slot", sa.Integer(), nullable=True))
    op.add_column("liteflow_task_try", sa.Column("slot", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_liteflow_dag_run_created_at"), "liteflow_dag_run", ["created_at"], unique=False)


def downgrade() -> None:
    _forget_newer_words()
    op.drop_index(op.f("ix_liteflow_dag_run_created_at"), table_name="liteflow_dag_run")
    op.drop_column("liteflow_task_try", "slot")
    op.drop_column("liteflow_task_instance", "slot")
    op.drop_column("liteflow_dag_run", "rerun_of")
    op.drop_column("liteflow_dag", "retain_days")
    op.drop_column("liteflow_dag", "retain_runs")


def _forget_newer_words() -> None:
    """Older versions refuse reasons that they do not know, and a success without a try.

    What was marked or reused counts as one that ran once. A run whose deletion had begun goes. Foreign keys are not
    enforced while a schema changes, so that nothing cascades.
    """
    pruned = "(SELECT id FROM liteflow_dag_run WHERE end_reason = 'pruned')"
    instances = f"(SELECT id FROM liteflow_task_instance WHERE run_pk IN {pruned})"
    for table in ("log_record", "xcom", "task_try"):
        op.execute(f"DELETE FROM liteflow_{table} WHERE task_instance_pk IN {instances}")
    for table in ("callback", "task_instance"):
        op.execute(f"DELETE FROM liteflow_{table} WHERE run_pk IN {pruned}")
    op.execute("DELETE FROM liteflow_dag_run WHERE end_reason = 'pruned'")
    op.execute(
        "UPDATE liteflow_task_instance SET end_reason = NULL, try_number ="
        " CASE WHEN state IN ('success', 'failed') AND try_number < 1 THEN 1 ELSE try_number END"
        " WHERE end_reason IN ('marked', 'reused')"
    )
    op.execute("UPDATE liteflow_task_try SET end_reason = NULL WHERE end_reason IN ('marked', 'reused')")
