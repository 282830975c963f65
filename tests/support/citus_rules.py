"""Reads statements and refuses those that Citus would refuse, or would run on more machines than one.

`tests/integration/test_citus.py` runs its verdicts beside a real Citus's. They hold for the plain forms of statements; a
statement of `db.autocommit` is never sent to Citus, and only has to name its owner.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache

from sqlglot import exp, parse_one
from sqlglot.errors import ParseError

from chatapi.db.models import User
from chatapi.db.placing import REFERENCES, ROOT

# The column of the owner, by table, of all tables that are distributed.
OWNERS = {ROOT: "id"} | {
    table.name: "user_id"
    for table in User.metadata.tables.values()
    if "user_id" in table.columns and table.name not in REFERENCES
}
VOLATILE = re.compile(r"\b(clock_timestamp|gen_random_uuid|random|timeofday|pg_sleep)\(", re.IGNORECASE)
WRITES = (exp.Insert, exp.Update, exp.Delete)
LIST = re.compile(r"IN \((\$\d+(?:::\w+)?)(?:, \$\d+(?:::\w+)?)+\)")

# What a verdict says.
MODIFYING_CTE = "a CTE writes"
INSERT_SELECT = "INSERT ... SELECT"
IS_VOLATILE = "a volatile function in a write"
LOCKS_ALL = "locks rows without their owner"
NO_OWNER = "does not name the owner by value"
APART = "joins rows without saying that they have the same owner"


def verdict(sql: str, *, one_statement: bool = False) -> str | None:
    """What is wrong with the statement, or None. `NO_OWNER`: Citus runs it, on all machines."""
    return _verdict(LIST.sub(r"IN (\1)", sql), one_statement)


@cache
def _verdict(sql: str, one_statement: bool) -> str | None:
    if not re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", sql):
        return None
    try:
        root = parse_one(sql, dialect="postgres")
    except ParseError as error:
        return f"cannot be read: {error}"
    found = list(_found(root, sql, one_statement=one_statement))
    # What Citus refuses comes before what it only takes long for.
    return min(found, key=lambda each: each == NO_OWNER, default=None)


def _found(root: exp.Expr, sql: str, *, one_statement: bool) -> Iterator[str]:
    writes = list(root.find_all(*WRITES))
    if writes and VOLATILE.search(sql):
        yield IS_VOLATILE
    if not one_statement and any(each is not root for each in writes):
        yield MODIFYING_CTE
    ctes = {cte.alias for cte in root.find_all(exp.CTE)}
    for query in root.find_all(exp.Select, *WRITES):
        yield from _of_level(query, ctes, one_statement=one_statement)


def _of_level(query: exp.Expr, ctes: set[str], *, one_statement: bool) -> Iterator[str]:
    if isinstance(query, exp.Insert):
        yield from _of_insert(query, one_statement=one_statement)
        return
    tables = _tables(query, ctes)
    if not tables:
        return
    named, together = _owners(query, tables)
    if named:
        return
    if one_statement:
        yield NO_OWNER
        return
    if query.args.get("locks"):
        yield LOCKS_ALL
    yield NO_OWNER if together else APART


def _of_insert(query: exp.Insert, *, one_statement: bool) -> Iterator[str]:
    schema = query.this
    table = schema.this.name if isinstance(schema, exp.Schema) else schema.name
    if table not in OWNERS:
        return
    if not isinstance(query.expression, exp.Values):
        if not one_statement:
            yield INSERT_SELECT
        return
    place = [column.name for column in schema.expressions].index(OWNERS[table])
    if not all(_is_value(row.expressions[place]) for row in query.expression.expressions):
        yield NO_OWNER


def _tables(query: exp.Expr, ctes: set[str]) -> dict[str, str]:
    """The distributed tables of this query, without those of its subqueries: their names by their aliases."""
    return {
        table.alias_or_name: table.name
        for table in _sources(query)
        if isinstance(table, exp.Table) and table.name in OWNERS and table.name not in ctes
    }


def _sources(query: exp.Expr) -> Iterator[exp.Expr]:
    if isinstance(query, exp.Update | exp.Delete):
        yield query.this
        yield from query.args.get("using") or ()
    from_ = query.args.get("from_") or query.args.get("from")
    if from_ is not None:
        yield from_.this
        for join in from_.this.args.get("joins") or ():
            yield join.this
    for join in query.args.get("joins") or ():
        yield join.this


def _conditions(query: exp.Expr) -> Iterator[exp.Expr]:
    where = query.args.get("where")
    if where is not None:
        yield from _conjuncts(where.this)
    from_ = query.args.get("from_") or query.args.get("from")
    inside = () if from_ is None else from_.this.args.get("joins") or ()
    for join in (*inside, *(query.args.get("joins") or ())):
        if (on := join.args.get("on")) is not None:
            yield from _conjuncts(on)


def _conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    condition = condition.unnest()
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.left)
        yield from _conjuncts(condition.right)
    else:
        yield condition


def _owners(query: exp.Expr, tables: dict[str, str]) -> tuple[bool, bool]:
    """Whether the owner of each table's rows is given by value, and whether all are the same owner's anyway.

    Of a subquery the latter means that the query around it has the same owner.
    """
    groups: list[set[str]] = [{alias} for alias in tables]
    given: set[str] = set()
    around = set()
    for condition in _conditions(query):
        if not isinstance(condition, exp.EQ):
            continue
        sides = [condition.left.unnest(), condition.right.unnest()]
        owners = [_owned(side, tables) for side in sides]
        for owner, other_owner, other in zip(owners, reversed(owners), reversed(sides), strict=True):
            if owner is None:
                continue
            if _is_value(other):
                given.add(owner)
            elif other_owner is not None:
                groups = _merged(groups, owner, other_owner)
            elif isinstance(other, exp.Column) and other.name in {"user_id", "id"}:
                around.add(owner)
    nested = any(_tables(outer, set()) for outer in _around(query) if not isinstance(outer, exp.Insert))
    return (
        all(group & given for group in groups),
        len(groups) == 1 and (not nested or bool(groups[0] & around)),
    )


def _around(query: exp.Expr) -> Iterator[exp.Expr]:
    """The queries that this is a part of; a CTE is none."""
    parent = query.parent
    while parent is not None and not isinstance(parent, exp.CTE):
        if isinstance(parent, exp.Select | exp.Update | exp.Delete | exp.Insert):
            yield parent
        parent = parent.parent


def _merged(groups: Iterable[set[str]], one: str, other: str) -> list[set[str]]:
    apart = [group for group in groups if not group & {one, other}]
    together = [group for group in groups if group & {one, other}]
    return [*apart, set().union(*together)]


def _owned(side: exp.Expr, tables: dict[str, str]) -> str | None:
    """The alias of the table whose owner this column is."""
    if not isinstance(side, exp.Column):
        return None
    alias = side.table or (next(iter(tables)) if len(tables) == 1 else "")
    return alias if alias in tables and side.name == OWNERS[tables[alias]] else None


def _is_value(side: exp.Expr) -> bool:
    while isinstance(side, exp.Cast | exp.Paren | exp.Collate):
        side = side.this
    return isinstance(side, exp.Parameter | exp.Placeholder | exp.Literal)


COLUMNS = r"\(([^()]*)\)"
MAKES_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", re.IGNORECASE)
OF_TABLE = re.compile(r"(?:ALTER TABLE (?:ONLY )?|INDEX .*? ON )(\w+)", re.IGNORECASE | re.DOTALL)
KEYS = re.compile(rf"(?:PRIMARY KEY|UNIQUE(?: INDEX .*? ON \w+)?) ?{COLUMNS}", re.IGNORECASE | re.DOTALL)
FOREIGN = re.compile(r"FOREIGN KEY ?\(\W*(\w+)|REFERENCES", re.IGNORECASE)


def schema_fault(sql: str, owned: Iterable[str] = ()) -> str | None:
    """What is wrong with a command of a migration, if the tables are distributed already; `owned` are new tables."""
    made = MAKES_TABLE.search(sql)
    found = made or OF_TABLE.search(sql)
    if found is None or not (found[1] in {*OWNERS, *owned} or (made and "user_id" in sql)):
        return None
    owner = OWNERS.get(found[1], "user_id")
    faults = {
        "a key without the owner": any(owner not in key for key in KEYS.findall(sql)),
        "a foreign key before the table is placed": made is not None and FOREIGN.search(sql) is not None,
        "a foreign key that does not begin with the owner": any(
            first not in {"", owner} for first in FOREIGN.findall(sql)
        ),
        "SET NULL": "SET NULL" in sql.upper(),
        "a key dropped and added in one command": re.search(r"DROP CONSTRAINT.*ADD", sql, re.I | re.S)
        is not None,
        "an identity that comes later": re.search(r"ADD COLUMN.*IDENTITY", sql, re.I | re.S) is not None,
    }
    return next((fault for fault, is_there in faults.items() if is_there), None)
