"""Changes folded onto a snapshot leave what the database had: against a model, at every time."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import StoreError
from store.fold import Base, Fold, read_change
from store.visibility import Visibility, parse_lsn
from tests.store import recording
from tests.store.recording import Row

KEYED = "public.vehicle"
COUNTED = "public.note"
SOURCE = "fleet"
XIDS = 5000


@dataclass
class Model:
    """What the tables hold; changes come out as capture would tell them."""

    rows: dict[int, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def copy(self) -> "Model":
        return Model(dict(self.rows), Counter(self.notes))

    def lines(self) -> Counter[tuple[str, str]]:
        found = Counter(
            (KEYED, f"{recording.key_of(key)}\t{recording.row_of(key, text)}")
            for key, text in self.rows.items()
        )
        for row, times in self.notes.items():
            found[COUNTED, f"{row}\t{row}"] = times
        return found

    def apply(self, op: str, key: int, other: int) -> Row | None:
        """Do it if it can be done; the change, or None."""
        return getattr(self, op)(key, other)  # type: ignore[no-any-return]

    def put(self, key: int, other: int) -> Row:
        text = f"text {other}"
        known = key in self.rows
        self.rows[key] = text
        return (recording.updated if known else recording.inserted)(KEYED, key, text)

    def rename(self, key: int, other: int) -> Row | None:
        if key not in self.rows or other in self.rows:
            return None
        text = self.rows[other] = self.rows.pop(key)
        return recording.updated(KEYED, other, text, old=key)

    def remove(self, key: int, other: int) -> Row | None:
        if self.rows.pop(key, None) is None:
            return None
        return recording.deleted(KEYED, key)

    def clear(self, key: int, other: int) -> Row | None:
        if key:  # seldom
            return None
        self.rows.clear()
        return recording.truncated(KEYED)

    def note(self, key: int, other: int) -> Row:
        row = recording.row_of(key, "note")
        self.notes[row] += 1
        return Row(COUNTED, "c", row, after=row)

    def forget(self, key: int, other: int) -> Row | None:
        row = recording.row_of(key, "note")
        if not self.notes[row]:
            return None
        self.notes[row] -= 1
        return Row(COUNTED, "d", row, before=row)

    def correct(self, key: int, other: int) -> Row | None:
        old, new = recording.row_of(key, "note"), recording.row_of(other, "note")
        if not self.notes[old]:
            return None
        self.notes[old] -= 1
        self.notes[new] += 1
        return Row(COUNTED, "u", new, after=new, before=old, old_key=None if old == new else old)


OPS = ["put", "put", "rename", "remove", "clear", "note", "note", "forget", "correct"]
transactions = st.lists(
    st.lists(
        st.tuples(st.sampled_from(OPS), st.integers(0, 5), st.integers(0, 5)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=14,
)


@dataclass(frozen=True)
class History:
    """Committed transactions in the log's order, and the model after each."""

    transactions: list[list[Row]]
    models: list[Model]


def play(plan: Sequence[Sequence[tuple[str, int, int]]]) -> History:
    model, kept, models = Model(), [], [Model()]
    for operations in plan:
        rows = [row for each in operations if (row := model.apply(*each)) is not None]
        if rows:
            kept.append(rows)
            models.append(model.copy())
    return History(kept, models)


def events(history: History) -> list[bytes]:
    """As they are stored, of one transaction after the other; the xid tells which."""
    found = []
    for number, rows in enumerate(history.transactions):
        for index, row in enumerate(rows):
            text = recording.payload(
                row,
                xid=XIDS + number,
                lsn="0/1",
                index=index,
                last=index == len(rows) - 1,
                source=SOURCE,
            )
            draft = recording.draft(row, text, 0)
            found.append(draft.head + b'1","source":"x","time":"2026-01-01T00:00:00Z"}')
    return found


def result(fold: Fold, base: Model) -> Counter[tuple[str, str]]:
    """What the fold leaves of a snapshot's lines, and what it adds."""
    lines: Counter[tuple[str, str]] = Counter()
    known = base.lines()
    for table in {name for name, _ in known} | {name for _, name in fold.tables}:
        text = "".join(f"{line}\n" for name, line in known.elements() if name == table)
        half = text.find("\n", len(text) // 2) + 1
        found = fold.tables.get((SOURCE, table))
        parts = [text[:half].encode(), text[half:].encode()]
        if found is not None:
            parts = [*(found.patch(part) for part in parts), *found.rest()]
        for line in b"".join(parts).decode().splitlines():
            lines[table, line] += 1
    return lines


def make_base(visible: Visibility | None, multisets: dict[str, bool]) -> Base:
    return Base(visible, parse_lsn("FFFFFFFF/0"), 0, multisets, frozenset())


@given(transactions, st.integers(0, 14), st.integers(0, 14))
def test_a_snapshot_and_the_changes_after_it_are_the_database(
    plan: list[list[tuple[str, int, int]]], taken: int, asked: int
) -> None:
    history = play(plan)
    taken = min(taken, len(history.transactions))
    asked = max(taken, min(asked, len(history.transactions)))
    base = history.models[taken]
    # It sees all before it; the changes it sees are in the log too, and must not count twice.
    visible = Visibility(XIDS, XIDS + taken, frozenset())
    fold = Fold({SOURCE: make_base(visible, {KEYED: False, COUNTED: True})}, None)
    wanted = {XIDS + number for number in range(asked)}
    for sequence, event in enumerate(events(history), 1):
        change = read_change(event)
        assert change is not None
        if change.xid in wanted:
            fold.add(event, sequence)
    assert +result(fold, base) == +history.models[asked].lines()


@given(transactions, st.integers(0, 13))
def test_what_committed_in_the_log_before_a_snapshot_that_does_not_see_it_is_applied(
    plan: list[list[tuple[str, int, int]]], late: int
) -> None:
    """Of two transactions at work at the snapshot, the later in the log may be the one it sees."""
    history = play(plan)
    late = min(late, len(history.transactions) - 1)
    if late < 0:
        return
    # It touches rows that no other does, as its locks would make sure.
    own = recording.inserted(KEYED, 77, "late")
    base = history.models[-1].copy()
    changed = any(row.op == "t" for rows in history.transactions[late:] for row in rows)
    if changed:
        return  # its lock on the table would have kept the truncate waiting
    history.transactions[late].insert(0, recording.inserted(KEYED, 78, "seen"))
    base.rows[78] = "seen"
    log = events(history)
    text = recording.payload(own, xid=9000, lsn="0/1", index=0, last=True, source=SOURCE)
    unseen = recording.draft(own, text, 0).head + b'1"}'
    log.insert(sum(map(len, history.transactions[:late])), unseen)
    visible = Visibility(XIDS, 9001, frozenset({9000}))
    fold = Fold({SOURCE: make_base(visible, {KEYED: False, COUNTED: True})}, None)
    for sequence, event in enumerate(log, 1):
        fold.add(event, sequence)
    expected = base.copy()
    expected.rows[77] = "late"
    assert +result(fold, base) == +expected.lines()


@given(transactions)
def test_without_a_snapshot_the_log_from_its_beginning_is_the_database(
    plan: list[list[tuple[str, int, int]]],
) -> None:
    history = play(plan)
    fold = Fold({}, None, anything=True)
    for sequence, event in enumerate(events(history), 1):
        fold.add(event, sequence)
    assert +result(fold, Model()) == +history.models[-1].lines()


def folded(*rows: Row, last: bool = True, base: Base | None = None) -> Fold:
    bases = {SOURCE: base} if base else {}
    fold = Fold(bases, None, anything=base is None)
    for event in events(History([list(rows)], [])):
        fold.add(event if last else event.replace(b'"last": true', b'"last": false'), 1)
    return fold


def lines_of(fold: Fold, base: bytes = b"") -> list[bytes]:
    table = fold.tables[SOURCE, KEYED]
    return (table.patch(base) + b"".join(table.rest())).splitlines()


def test_a_transaction_whose_end_has_not_come_changes_nothing() -> None:
    fold = Fold({}, None, anything=True)
    row = recording.inserted(KEYED, 1, "half")
    text = recording.payload(row, xid=1, lsn="0/1", index=0, last=False, source=SOURCE)
    fold.add(recording.draft(row, text, 0).head + b'1"}', 1)
    assert fold.tables == {}


def test_a_column_that_did_not_change_is_taken_from_the_row_of_the_snapshot() -> None:
    partial = Row(KEYED, "u", '{"id":1}', after='{"id":1,"n":2}', unchanged=["text"])
    base = b'{"id":1}\t{"id":1,"text":"long","n":1}\n'
    assert lines_of(folded(partial), base) == [b'{"id":1}\t{"id":1,"text":"long","n":2}']


def test_a_column_that_did_not_change_follows_its_row_to_another_key() -> None:
    partial = Row(
        KEYED, "u", '{"id":2}', after='{"id":2,"n":2}', old_key='{"id":1}', unchanged=["text"]
    )
    base = b'{"id":1}\t{"id":1,"text":"long","n":1}\n'
    assert lines_of(folded(partial), base) == [b'{"id":2}\t{"id":2,"text":"long","n":2}']


def test_a_column_that_did_not_change_is_taken_from_the_change_before() -> None:
    first = Row(KEYED, "c", '{"id":1}', after='{"id":1,"text":"long","n":1}')
    partial = Row(KEYED, "u", '{"id":1}', after='{"id":1,"n":2}', unchanged=["text"])
    assert lines_of(folded(first, partial)) == [b'{"id":1}\t{"id":1,"text":"long","n":2}']


def test_columns_unchanged_in_two_changes_in_a_row_are_taken_from_the_snapshot() -> None:
    first = Row(KEYED, "u", '{"id":1}', after='{"id":1,"b":"B"}', unchanged=["a", "n"])
    second = Row(KEYED, "u", '{"id":1}', after='{"id":1,"n":2}', unchanged=["a", "b"])
    base = b'{"id":1}\t{"id":1,"a":"old a","b":"old b","n":1}\n'
    expected = [b'{"id":1}\t{"id":1,"a":"old a","b":"B","n":2}']
    assert lines_of(folded(first, second), base) == expected


def test_changes_of_a_table_that_the_snapshot_left_out_are_passed_over() -> None:
    base = Base(None, 0, 0, {}, frozenset({KEYED}))
    assert folded(recording.inserted(KEYED, 1, "x"), base=base).tables == {}


def test_changes_of_a_source_without_a_base_are_passed_over() -> None:
    row = recording.inserted(KEYED, 1, "x")
    text = recording.payload(row, xid=1, lsn="0/1", index=0, last=True, source="other")
    fold = Fold({SOURCE: make_base(None, {})}, None)
    fold.add(recording.draft(row, text, 0).head + b'1"}', 1)
    assert fold.tables == {}


@pytest.mark.parametrize(
    "event",
    [b'{"data":{"identifier":{"author":"ada"},"payload":{"a":1}}}', b"{}", b"no JSON"],
)
def test_an_event_that_is_no_captured_change_is_passed_over(event: bytes) -> None:
    assert read_change(event) is None


@pytest.mark.parametrize("odd", [b'"\\ud800"', b"[" * 3000 + b"]" * 3000])
def test_a_change_with_a_value_that_only_postgresql_reads_is_read(odd: bytes) -> None:
    """One `json` value that a script had cut in two made every later state of its tenant fail."""
    row = recording.inserted(KEYED, 1, "x")
    text = recording.payload(row, xid=7, lsn="0/1", index=0, last=True, source=SOURCE)
    event = b'{"data":{"identifier":{"table":"public.t","op":"c","key":"1"},"payload":%b}}' % (
        text.encode()
    )
    sound = read_change(event)
    assert sound is not None
    assert sound.after is not None
    after = sound.after[:-1] + b',"odd":%b}' % odd
    assert read_change(event.replace(sound.after, after)) == replace(sound, after=after)


def test_a_captured_change_that_cannot_be_read_is_an_error_and_not_passed_over() -> None:
    row = recording.inserted(KEYED, 1, "x")
    text = recording.payload(row, xid=1, lsn="0/1", index=0, last=True, source=SOURCE)
    with pytest.raises(StoreError, match="a captured change cannot be read"):
        read_change(recording.draft(row, text.replace('"xid":1', '"xid":"1"'), 0).head + b'1"}')


def test_rows_keep_the_bytes_that_were_captured() -> None:
    after = '{"id":1,"n":1.10,"t":"\\u00e9\\/","j":{"b": 1,  "a":[1e3]}}'
    row = Row(KEYED, "c", '{"id":1}', after=after)
    assert lines_of(folded(row)) == [f'{{"id":1}}\t{after}'.encode()]
    assert json.loads(after)
