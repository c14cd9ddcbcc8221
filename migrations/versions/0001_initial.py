"""The first schema: dags, runs, task instances with their tries, XComs, logs, executors and pools.

Revision 0001, after nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORD = sa.String().with_variant(sa.String(collation="C"), "postgresql")
ID = sa.String(length=250).with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "liteflow_dag",
        sa.Column("id", KEY, nullable=False),
        sa.Column("dag_id", ID, nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("tags", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("structure_digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_dag")),
        sa.UniqueConstraint("dag_id", name=op.f("uq_liteflow_dag_dag_id")),
    )
    op.create_table(
        "liteflow_executor",
        sa.Column("id", KEY, nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_started_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_executor")),
        sa.UniqueConstraint("token", name=op.f("uq_liteflow_executor_token")),
    )
    op.create_table(
        "liteflow_pool",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", ID, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_pool")),
        sa.UniqueConstraint("name", name=op.f("uq_liteflow_pool_name")),
    )
    op.create_table(
        "liteflow_dag_run",
        sa.Column("id", KEY, nullable=False),
        sa.Column("dag_pk", KEY, nullable=False),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("end_reason", WORD, nullable=True),
        sa.Column("logical_date", sa.BigInteger(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("structure_digest", sa.String(length=64), nullable=False),
        sa.Column("executor_pk", KEY, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_dag_run")),
        sa.UniqueConstraint("dag_pk", "run_id", name=op.f("uq_liteflow_dag_run_dag_pk_run_id")),
        sa.ForeignKeyConstraint(
            ["dag_pk"], ["liteflow_dag.id"], name=op.f("fk_liteflow_dag_run_dag_pk"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["executor_pk"], ["liteflow_executor.id"], name=op.f("fk_liteflow_dag_run_executor_pk")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_liteflow_dag_run_dag_pk_created_at"),
        "liteflow_dag_run",
        ["dag_pk", "created_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_liteflow_dag_run_executor_pk_state"), "liteflow_dag_run", ["executor_pk", "state"], unique=False
    )
    op.create_index(op.f("ix_liteflow_dag_run_run_id"), "liteflow_dag_run", ["run_id"], unique=False)
    op.create_index(op.f("ix_liteflow_dag_run_state"), "liteflow_dag_run", ["state"], unique=False)

    op.create_table(
        "liteflow_task_instance",
        sa.Column("id", KEY, nullable=False),
        sa.Column("run_pk", KEY, nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("map_index", sa.Integer(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        sa.Column("trigger_rule", sa.String(length=40), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("end_reason", WORD, nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("executor_pk", KEY, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_task_instance")),
        sa.UniqueConstraint(
            "run_pk", "task_id", "map_index", name=op.f("uq_liteflow_task_instance_run_pk_task_id_map_index")
        ),
        sa.ForeignKeyConstraint(
            ["run_pk"],
            ["liteflow_dag_run.id"],
            name=op.f("fk_liteflow_task_instance_run_pk"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["executor_pk"], ["liteflow_executor.id"], name=op.f("fk_liteflow_task_instance_executor_pk")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "liteflow_log_record",
        sa.Column("id", KEY, nullable=False),
        sa.Column("task_instance_pk", KEY, nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=True),
        sa.Column("logger", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_log_record")),
        sa.ForeignKeyConstraint(
            ["task_instance_pk"],
            ["liteflow_task_instance.id"],
            name=op.f("fk_liteflow_log_record_task_instance_pk"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(
        op.f("ix_liteflow_log_record_task_instance_pk"),
        "liteflow_log_record",
        ["task_instance_pk"],
        unique=False,
    )

    op.create_table(
        "liteflow_task_try",
        sa.Column("id", KEY, nullable=False),
        sa.Column("task_instance_pk", KEY, nullable=False),
        sa.Column("try_number", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("end_reason", WORD, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_task_try")),
        sa.UniqueConstraint(
            "task_instance_pk", "try_number", name=op.f("uq_liteflow_task_try_task_instance_pk_try_number")
        ),
        sa.ForeignKeyConstraint(
            ["task_instance_pk"],
            ["liteflow_task_instance.id"],
            name=op.f("fk_liteflow_task_try_task_instance_pk"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "liteflow_xcom",
        sa.Column("id", KEY, nullable=False),
        sa.Column("task_instance_pk", KEY, nullable=False),
        sa.Column("key", ID, nullable=False),
        sa.Column("encoding", sa.String(length=20), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_liteflow_xcom")),
        sa.UniqueConstraint("task_instance_pk", "key", name=op.f("uq_liteflow_xcom_task_instance_pk_key")),
        sa.ForeignKeyConstraint(
            ["task_instance_pk"],
            ["liteflow_task_instance.id"],
            name=op.f("fk_liteflow_xcom_task_instance_pk"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("liteflow_xcom")
    op.drop_table("liteflow_task_try")
    op.drop_index(op.f("ix_liteflow_log_record_task_instance_pk"), table_name="liteflow_log_record")
    op.drop_table("liteflow_log_record")
    op.drop_table("liteflow_task_instance")
    op.drop_index(op.f("ix_liteflow_dag_run_state"), table_name="liteflow_dag_run")
    op.drop_index(op.f("ix_liteflow_dag_run_run_id"), table_name="liteflow_dag_run")
    op.drop_index(op.f("ix_liteflow_dag_run_executor_pk_state"), table_name="liteflow_dag_run")
    op.drop_index(op.f("ix_liteflow_dag_run_dag_pk_created_at"), table_name="liteflow_dag_run")
    op.drop_table("liteflow_dag_run")
    op.drop_table("liteflow_pool")
    op.drop_table("liteflow_executor")
    op.drop_table("liteflow_dag")
