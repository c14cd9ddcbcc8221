"""What several machines need: how long a service's lease holds, and where its lock files can be seen.

Revision 0006, after 0005. Columns are added in place, as in 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("liteflow_executor", sa.Column("place", sa.String(64), nullable=True))
    op.add_column("liteflow_executor", sa.Column("lease_until", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("liteflow_executor", "lease_until")
    op.drop_column("liteflow_executor", "place")
