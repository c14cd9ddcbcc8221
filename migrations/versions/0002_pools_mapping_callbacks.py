"""Pools, labels of mapped task instances, rescheduled sensors, callbacks that are due; runs by logical date.

Revision 0002, after 0001. Columns are added in place: a rebuilt table would lose its sequence of keys, and with
foreign keys on its children.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ID = sa.String(length=250).with_variant(sa.Text(collation="C"), "postgresql")
IN_POOL = sa.text("pool IS NOT NULL AND state = 'running'")


def upgrade() -> None:
    op.add_column("liteflow_task_instance", sa.Column("pool", ID, nullable=True))
    op.add_column("liteflow_task_instance", sa.Column("pool_slots", sa.Integer(), nullable=True))
    op.add_column("liteflow_task_instance", sa.Column("rendered_map_index", sa.Text(), nullable=True))
    op.add_column(
        "liteflow_task_instance", sa.Column("reschedules", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.create_index(
        op.f("ix_liteflow_task_instance_pool"),
        "liteflow_task_instance",
        ["pool"],
        unique=False,
        sqlite_where=IN_POOL,
        postgresql_where=IN_POOL,
    )
    op.create_index(
        op.f("ix_liteflow_dag_run_dag_pk_logical_date"),
        "liteflow_dag_run",
        ["dag_pk", "logical_date"],
        unique=False,
    )
    op.create_table(
        "liteflow_callback",
        sa.Column("id", KEY, nullable=False),
        sa.Column("run_pk", KEY, nullable=False),
        sa.Column("task_instance_pk", KEY, nullable=True),
        sa.Column("try_number", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_callback")),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["liteflow_dag_run.id"], name=op.f("fk_liteflow_callback_run_pk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["task_instance_pk"],
            ["liteflow_task_instance.id"],
            name=op.f("fk_liteflow_callback_task_instance_pk"),
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_liteflow_callback_run_pk"), "liteflow_callback", ["run_pk"], unique=False)
    op.create_index(
        op.f("ix_liteflow_callback_task_instance_pk"), "liteflow_callback", ["task_instance_pk"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_liteflow_callback_task_instance_pk"), table_name="liteflow_callback")
    op.drop_index(op.f("ix_liteflow_callback_run_pk"), table_name="liteflow_callback")
    op.drop_table("liteflow_callback")
    op.drop_index(op.f("ix_liteflow_dag_run_dag_pk_logical_date"), table_name="liteflow_dag_run")
    op.drop_index(op.f("ix_liteflow_task_instance_pool"), table_name="liteflow_task_instance")
    op.drop_column("liteflow_task_instance", "reschedules")
    op.drop_column("liteflow_task_instance", "rendered_map_index")
    op.drop_column("liteflow_task_instance", "pool_slots")
    op.drop_column("liteflow_task_instance", "pool")
