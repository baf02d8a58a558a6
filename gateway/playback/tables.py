"""Names of tables as PostgreSQL writes them: `schema.table`, each part plain or quoted. Pure."""

import re
from string import ascii_lowercase, ascii_uppercase

_PART = r'(?:[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*|"(?:[^"\0]|"")+")'
_TABLE = re.compile(rf"\s*({_PART})\s*\.\s*({_PART})\s*")
# Means the same without its quotes.
_PLAIN = re.compile(r'"([a-z_][a-z0-9_$]*)"')
# PostgreSQL folds the letters of ASCII and no others.
_FOLDED = str.maketrans(ascii_uppercase, ascii_lowercase)
# Commas inside quotes do not separate.
_ENTRY = re.compile(r'(?:[^,"]|"(?:[^"]|"")*"?)+')


def parse_tables(text: str) -> tuple[list[str], list[str]]:
    """Canonical names, each once, and the entries that are no `schema.table`.

    A part without quotes is folded to lower case; quotes that change nothing are left out.
    """
    tables: dict[str, None] = {}
    wrong: list[str] = []
    for entry in _ENTRY.findall(text):
        if not entry.strip():
            continue
        match = _TABLE.fullmatch(entry)
        if match is None:
            wrong.append(entry.strip())
            continue
        name = ".".join(map(_canonical, match.groups()))
        tables[name] = None
    return list(tables), wrong


def _canonical(part: str) -> str:
    plain = _PLAIN.fullmatch(part)
    if plain is not None:
        return plain[1]
    return part if part.startswith('"') else part.translate(_FOLDED)
