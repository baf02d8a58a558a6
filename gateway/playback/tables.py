"""Names of tables as PostgreSQL writes them: `schema.table`, each part plain or quoted. Pure."""

import re

_PART = r'(?:[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|"(?:[^"]|"")+")'
_TABLE = re.compile(rf"\s*({_PART})\s*\.\s*({_PART})\s*")
# Commas inside quotes do not separate.
_ENTRY = re.compile(r'(?:[^,"]|"(?:[^"]|"")*"?)+')


def parse_tables(text: str) -> tuple[list[str], list[str]]:
    """Canonical names, and the entries that are no `schema.table`.

    An unquoted part is folded to lower case, as PostgreSQL does.
    """
    tables: list[str] = []
    wrong: list[str] = []
    for entry in _ENTRY.findall(text):
        if not entry.strip():
            continue
        match = _TABLE.fullmatch(entry)
        if match is None:
            wrong.append(entry.strip())
            continue
        name = ".".join(part if part.startswith('"') else part.lower() for part in match.groups())
        if name not in tables:
            tables.append(name)
    return tables, wrong
