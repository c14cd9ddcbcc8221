"""What recovery and cancelling need: tries that use up no retry, the cancel of one task instance, memory, callbacks.

Revision 0003, after 0002. Columns are added in place, as in 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TO_CANCEL = sa.text("cancel_requested_at IS NOT NULL")


def upgrade() -> None:
    op.add_column(
        "liteflow_task_instance",
        sa.Column("uncounted_tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("liteflow_task_instance", sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True))
    op.add_column("liteflow_task_instance", sa.Column("peak_rss_bytes", sa.BigInteger(), nullable=True))
    op.add_column("liteflow_task_try", sa.Column("peak_rss_bytes", sa.BigInteger(), nullable=True))
    op.add_column("liteflow_callback", sa.Column("position", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        op.f("ix_liteflow_task_instance_cancel_requested_at"),
        "liteflow_task_instance",
        ["cancel_requested_at"],
        unique=False,
        sqlite_where=TO_CANCEL,
        postgresql_where=TO_CANCEL,
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_liteflow_task_instance_cancel_requested_at"), table_name="liteflow_task_instance")
    op.drop_column("liteflow_callback", "position")
    op.drop_column("liteflow_task_try", "peak_rss_bytes")
    op.drop_column("liteflow_task_instance", "peak_rss_bytes")
    op.drop_column("liteflow_task_instance", "cancel_requested_at")
    op.drop_column("liteflow_task_instance", "uncounted_tries")
