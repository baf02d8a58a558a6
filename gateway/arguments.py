"""What was typed after `playhead publish`, `watch` and `replay`, as the gateway is to be asked. Pure."""

import re
from collections.abc import Mapping, Sequence

import msgspec

_COMPARISON = re.compile(r"([^<>=!\s][^<>=!]*?)\s*(>=|<=|==|>|<|=)\s*([^<>=].*)", re.DOTALL)
_OPERATORS = {">=": ".gte", "<=": ".lte", ">": ".gt", "<": ".lt", "=": "", "==": ""}


class UsageError(Exception):
    """A sentence about what was typed."""


def build_params(
    event_type: str,
    limits: Mapping[str, str | None],
    identifiers: Sequence[str],
    comparisons: Sequence[str],
) -> list[tuple[str, str]]:
    """The parameters of a GET stream; what they may hold is for the gateway to say."""
    params = [("event_type", event_type)]
    params += [(name, value) for name, value in limits.items() if value is not None]
    for text in identifiers:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise UsageError(f"--identifier must be field=value, got '{text}'")
        params.append((f"identifier.{name}", value))
    for text in comparisons:
        found = _COMPARISON.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                "--where must be a field, one of >= <= > < = and a value, or "
                f"field.operator=operand, got '{text}'"
            )
        name, operator, value = found.groups()
        params.append((f"identifier.{name}{_OPERATORS[operator]}", value))
    return params


def build_notification(event_type: str, identifiers: Sequence[str], payload: str | None) -> bytes:
    """The JSON of one event to publish."""
    values: dict[str, object] = {}
    for text in identifiers:
        name, separator, value = text.partition("=")
        typed = name.endswith(":")
        name = name.removesuffix(":")
        if not name or not separator:
            raise UsageError(f"--identifier must be field=text or field:=JSON, got '{text}'")
        if name in values:
            raise UsageError(f"--identifier has the field '{name}' twice")
        values[name] = _json(f"--identifier {name}", value) if typed else value
    body: dict[str, object] = {"event_type": event_type, "identifier": values}
    if payload is not None:
        body["payload"] = _json("--payload", payload)
    return msgspec.json.encode(body)


def _json(what: str, text: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{what} is not JSON: {error}, got '{text}'") from error
    return msgspec.Raw(text.encode())
