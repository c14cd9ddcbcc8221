"""What looking and operating need: the slot of a try, where a run came from, how long runs are kept; runs by time.

Revision 0004, after 0003. Columns are added in place, as in 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("liteflow_dag", sa.Column("retain_runs", sa.Integer(), nullable=True))
    op.add_column("liteflow_dag", sa.Column("retain_days", sa.Float(), nullable=True))
    op.add_column("liteflow_dag_run", sa.Column("rerun_of", sa.String(length=250), nullable=True))
    op.add_column("liteflow_task_instance", sa.Column("slot", sa.Integer(), nullable=True))
    op.add_column("liteflow_task_try", sa.Column("slot", sa.Integer(), nullable=True))
    op.create_index(op.f("ix_liteflow_dag_run_created_at"), "liteflow_dag_run", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_liteflow_dag_run_created_at"), table_name="liteflow_dag_run")
    op.drop_column("liteflow_task_try", "slot")
    op.drop_column("liteflow_task_instance", "slot")
    op.drop_column("liteflow_dag_run", "rerun_of")
    op.drop_column("liteflow_dag", "retain_days")
    op.drop_column("liteflow_dag", "retain_runs")
