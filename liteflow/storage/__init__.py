"""Everything that is kept: the models, the database and its two scopes, schema versions, statements, XComs.

This package imports nothing by itself: `storage.xcoms` must stay usable in workers, which have no SQLAlchemy.
"""
