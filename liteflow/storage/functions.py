"""What SQLite and PostgreSQL say differently, for the statements of this room."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class ByteLength(FunctionElement[int]):
    """How many bytes a text has."""

    name = "byte_length"
    type = BigInteger()
    inherit_cache = True


@compiles(ByteLength)
def _byte_length(element: ByteLength, compiler: Any, **more: Any) -> str:
    return f"length(CAST({compiler.process(element.clauses, **more)} AS BLOB))"


@compiles(ByteLength, "postgresql")
def _byte_length_of_postgresql(element: ByteLength, compiler: Any, **more: Any) -> str:
    return f"octet_length({compiler.process(element.clauses, **more)})"


class Position(FunctionElement[int]):
    """Where one text begins in another, to the letter: 1, 2, ...; 0 where it does not."""

    name = "position"
    type = BigInteger()
    inherit_cache = True


@compiles(Position)
def _position(element: Position, compiler: Any, **more: Any) -> str:
    return f"instr({compiler.process(element.clauses, **more)})"


@compiles(Position, "postgresql")
def _position_of_postgresql(element: Position, compiler: Any, **more: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **more)})"


def total(column: Any) -> ColumnElement[int]:
    """The sum of whole numbers as one, which PostgreSQL would give as a decimal number."""
    return cast(func.sum(column), BigInteger)


LAST_CHARACTER = "\U0010ffff"


def begins_with(column: Any, text: str) -> ColumnElement[bool]:
    """The condition that an id begins so, to the letter: SQLite's LIKE takes upper and lower case for the same."""
    return and_(column >= text, column < text + LAST_CHARACTER)
