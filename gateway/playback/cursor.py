"""The `id:` of a session's frames: `<run>-<ms>-<kind>-<sequence>`, a place in one run."""

import re
from typing import NamedTuple

from store.merge import Place

_TEXT = re.compile(r"(\d{1,15})-(\d{1,15})-(-1|\d{1,10})-(\d{1,19})", re.ASCII)


class SessionCursor(NamedTuple):
    """Everything up to this place of this run was received."""

    run: int
    place: Place

    @classmethod
    def parse(cls, text: str) -> "SessionCursor":
        """Raises ValueError with a sentence."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"last_event_id must be '<run>-<ms>-<kind>-<sequence>'. Got: '{text[:100]}'"
            )
        run, ms, kind, sequence = map(int, match.groups())
        return cls(run, Place(ms, kind, sequence))

    def text(self, place: Place) -> str:
        """The id of a place in the same run."""
        return f"{self.run}-{place.ms}-{place.kind}-{place.sequence}"
