"""What a SQL prompt finds: views, and functions of PostgreSQL. They follow from the schema and are made by its upgrade.

Revision 0012. A program that knows only schema 11 works on.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(f"update rota_schema set version = {int(revision)}, compatible_from = 2")
