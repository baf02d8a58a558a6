"""The `id:` of a session's frames: `<run>-<ms>-<kind>-<sequence>`, a place in one run.

With `-state` behind it the rows at that place have not all been sent.
"""

import re
from typing import NamedTuple

from store.merge import Place

_TEXT = re.compile(r"(\d{1,15})-(\d{1,15})-(-1|\d{1,10})-(\d{1,19})(-state)?", re.ASCII)


class SessionCursor(NamedTuple):
    """Everything up to this place of this run was received, but the state there if it is `owed`."""

    run: int
    place: Place
    owed: bool = False

    @classmethod
    def parse(cls, text: str) -> "SessionCursor":
        """Raises ValueError with a sentence."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"last_event_id must be '<run>-<ms>-<kind>-<sequence>'. Got: '{text[:100]}'"
            )
        run, ms, kind, sequence = map(int, match.groups()[:4])
        return cls(run, Place(ms, kind, sequence), bool(match[5]))

    def text(self, place: Place) -> str:
        """The id of a place in the same run."""
        state = "-state" if self.owed else ""
        return f"{self.run}-{place.ms}-{place.kind}-{place.sequence}{state}"

    def settled(self) -> "SessionCursor":
        """Between two milliseconds, where it owes a state: that is of whole ones."""
        ms = self.place.ms
        if not self.owed or self.place == Place.after_ms(ms):
            return self
        return self._replace(place=Place.before_ms(ms))

    @property
    def through_ms(self) -> int:
        """The time of the state at a settled place: all events up to it lie behind."""
        return self.place.ms - 1 if self.place.kind < 0 else self.place.ms
