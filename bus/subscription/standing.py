"""Which agreements both parties stand by: only a bus that runs knows, by what was signed and by what is in force."""

from __future__ import annotations

from collections.abc import Mapping

from bus import access
from bus.config import Settings
from bus.core.agreement import Agreement
from bus.engine import agreement_log
from bus.signatures import keys, log, statement
from bus.signatures.statement import State
from bus.subscription import words

PRINCIPAL = "operator"


def published(settings: Settings) -> dict[str, Agreement]:
    """What is in force, in the text that is; nothing where nothing is. Raises ConfigError where no broker answers."""
    try:
        return agreement_log.read(access.confluent(settings, PRINCIPAL)).agreements()
    except agreement_log.Malformed:
        return {}


def read(settings: Settings, agreements: Mapping[str, Agreement]) -> dict[str, str] | None:
    """Agreement -> `words.AGREED` or what stands in the way. None: no bus runs. Raises ConfigError."""
    from bus.platform import processes, roster

    if not settings.kafka.bootstrap and processes.running(settings, roster.KAFKA) is None:
        return None
    inside, known = published(settings), keys.public(settings, agreements.values())
    said = log.read(access.confluent(settings, PRINCIPAL), PRINCIPAL)
    return {name: _word(one, inside.get(name), statement.standing(one, said, known).state) for name, one in agreements.items()}


def _word(file: Agreement, inside: Agreement | None, state: State) -> str:
    """Workers look at signatures, too: what was revoked is over, also while it is still published."""
    same = inside is not None and inside.grant_hash == file.grant_hash
    if state is State.AGREED:
        return words.AGREED if same else words.NOT_APPLIED
    return state.value if same or inside is None else f"{state.value}; its earlier text is in force"
