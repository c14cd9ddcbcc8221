"""alembic's environment: on the connection that liteflow hands over, or, for developers, on alembic.ini's URL."""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from liteflow.storage.engine import connect
from liteflow.storage.schema import VERSION_TABLE
from liteflow.storage.tables import metadata


def migrate(connection: Connection) -> None:
    """Run the migrations in the one transaction that is open on `connection`."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        transactional_ddl=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    migrate(handed_over)
else:
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    database = connect(context.config.get_main_option("sqlalchemy.url"))
    with database.engine.connect().execution_options(liteflow_begin="BEGIN IMMEDIATE") as own, own.begin():
        migrate(own)
    database.close()
