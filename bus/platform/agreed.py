"""Which agreements both parties stand by, after this home has signed for its mock parties."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bus import access
from bus.config import ConfigError, Settings
from bus.core.agreement import Agreement
from bus.signatures import keys, log, statement
from bus.signatures.statement import Act, Signed, Standing, State, Statement

Agreements = Mapping[str, Agreement]
MOCK_ROLE = "mock party of this home"


@dataclass(frozen=True, slots=True)
class Agreed:
    """`standings`: where each agreement file's text stands; `kept`: the texts of before, where the new one is not agreed on;
    `ended`: those in force that are so no longer.
    """

    standings: dict[str, Standing]
    kept: dict[str, Agreement]
    ended: tuple[str, ...]
    made: tuple[Signed, ...]
    """What this home signs for its mock parties."""

    @property
    def signed(self) -> tuple[tuple[str, str], ...]:
        """(agreement, mock party) of these."""
        return tuple((one.statement.agreement, one.statement.party) for one in self.made)

    def of(self, agreements: Agreements) -> dict[str, Agreement]:
        """Those that may deliver, in the text that may."""
        new = {name: one for name, one in agreements.items() if self.standings[name].state is State.AGREED}
        return {name: (new | self.kept)[name] for name in sorted(new.keys() | self.kept.keys())}

    def others(self) -> dict[str, str]:
        """Agreement -> why it does not deliver, and what to do about it."""
        return {name: why(name, stands) for name, stands in self.standings.items() if stands.state is not State.AGREED}


def why(name: str, stands: Standing) -> str:
    """In words, for an agreement that is not agreed on."""
    if stands.state is State.UNSIGNED:
        commands = "; ".join(f"bus agreement sign {name} --as {party} --key FILE" for party in stands.missing)
        return f"not signed by {' and '.join(stands.missing)}: {commands}"
    act = Act.REVOKE if stands.state is State.REVOKED else Act.REJECT
    said = next(signed.statement for signed in stands.acts if signed.statement.act is act)
    return f"{stands.state.value} by {said.party} ({said.reason or 'no reason given'}): change its text and have that signed"


def look(settings: Settings, agreements: Agreements, before: Agreements, clock: Callable[[], float] = time.time) -> Agreed:
    """Where the files' texts stand once this home has signed for its mock parties, whose keys it makes; writes nothing to the
    cluster. `before`: what is in force. Raises ConfigError.
    """
    said = log.read(access.confluent(settings, "admin"))
    wanted = _to_sign(settings, agreements, _standings(settings, agreements, said), int(clock() * 1000))
    made = [statement.sign(one, keys.private(settings, one.party)) for one in wanted]
    found = _standings(settings, agreements, [*said, *made])
    old = _standings(settings, before, said)
    ended = tuple(name for name in before if name not in agreements or old[name].state in (State.REJECTED, State.REVOKED))
    kept = {
        name: one
        for name, one in before.items()
        if name in agreements and found[name].state is not State.AGREED and old[name].state is State.AGREED
    }
    return Agreed(found, kept, ended, tuple(made))


def bring(settings: Settings, agreements: Agreements, before: Agreements, clock: Callable[[], float] = time.time) -> Agreed:
    """Signs for mock parties what they have neither signed, rejected nor revoked. Raises ConfigError. Idempotent."""
    found = look(settings, agreements, before, clock)
    if found.made:
        log.write(settings, found.made)
    return found


def _standings(settings: Settings, agreements: Agreements, said: list[Signed]) -> dict[str, Standing]:
    known = keys.public(settings, agreements.values())
    return {name: statement.standing(one, said, known) for name, one in agreements.items()}


def _to_sign(settings: Settings, agreements: Agreements, found: Mapping[str, Standing], at_ms: int) -> list[Statement]:
    return [
        Statement(Act.SIGN, name, agreements[name].grant_hash, party, at_ms, MOCK_ROLE)
        for name, stands in found.items()
        if stands.state is State.UNSIGNED
        for party in stands.missing
        if keys.is_mock(settings, party)
    ]


def act(settings: Settings, agreement: Agreement, done: Statement, key: Path | None = None) -> Standing:
    """Sign a statement and write it; where the agreement stands then. Raises ConfigError, with nothing written, where the key is
    not the party's, or the party or the text do not allow the act any more.
    """
    known = keys.public(settings, [agreement])
    signed = statement.sign(done, keys.private(settings, done.party, key))
    if keys.is_mock(settings, done.party):
        known = keys.public(settings, [agreement])  # it may have been made just now
    if not statement.verifies(signed, known[done.party]):
        place = keys.own_file(settings, done.party)
        raise ConfigError(f"{key} is not the private key of {done.party}, whose public one is to be in {place}")
    said = log.read(access.confluent(settings, "admin"))
    before = statement.standing(agreement, said, known)
    if before.state in (State.REJECTED, State.REVOKED):
        raise ConfigError(f"{agreement.id} is {why(agreement.id, before)}")
    if done.act is Act.REVOKE and before.state is not State.AGREED:
        raise ConfigError(f"{agreement.id} is not agreed on, so there is nothing to revoke: `bus agreement reject` says no to it")
    if done.act is Act.REJECT and done.party not in before.missing:
        raise ConfigError(f"{done.party} has signed {agreement.id} already: `bus agreement revoke` takes that back")
    if not (done.act is Act.SIGN and done.party not in before.missing):
        log.write(settings, [signed])
    return statement.standing(agreement, [*said, signed], known)
