"""Rows: every statement Rota sends to the database, and nothing else. The only importer of SQLAlchemy."""
