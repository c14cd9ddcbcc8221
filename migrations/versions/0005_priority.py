"""What embedding needs: which of several runs goes first.

Revision 0005, after 0004. Columns are added in place, as in 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("liteflow_dag_run", sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("liteflow_dag_run", "priority")
