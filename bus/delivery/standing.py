"""Where a webhook stands, in words and numbers for operators: of what `bus.webhooks` says, which holds nothing of a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bus.core.agreement import Agreement
from bus.delivery import outbox
from bus.delivery.target import Forbidden, Rules, target
from bus.delivery.webhook_endpoint import address_of


def standing(
    agreement: Agreement, told: Mapping[str, Any] | None, rules: Rules, now_ms: int, ends: Mapping[int, int]
) -> dict[str, Any]:
    """Ready for JSON. `state`: not sent, nothing yet, stopped, failing, sending; times in RFC 3339.

    `ends`: lane -> end of the agency's topic. `unread`: places up to there that were not read, but for the end of a transaction
    that stands last; about so many deliveries, for other transactions' ends take places, too.
    """
    box = _box(told)
    last = dict((told or {}).get("last") or {})
    moved = bool(told) and (told or {}).get("address") != address_of(agreement.delivery.url)
    state, why = _state(agreement, box if told and not moved else None, rules, now_ms)
    return {
        "agreement": agreement.id,
        "url": agreement.delivery.url,
        "state": state,
        "why": why,
        "unread": sum(max(0, end - 1 - box.nexts.get(lane, 0)) for lane, end in ends.items()),
        "waiting": box.waiting() + sum(len(run.items) for run in box.runs),
        "given_up": box.given_up(),
        "failures": box.failures,
        "next_attempt": _instant(box.next_attempt_ms()) if state == "failing" or box.waiting() else None,
        "last_code": last.get("code"),
        "last_attempt": _instant(last.get("at_ms")),
        "next_offsets": {str(lane): offset for lane, offset in sorted(box.nexts.items())},
        "queues": [
            {
                "lane": queue.lane,
                "offset": queue.items[0].offset,
                "events": len(queue.items),
                "attempts": queue.attempts,
                "next_attempt": _instant(queue.due_ms),
                "given_up": queue.due_ms is None,
            }
            for queue in box.queues
        ],
    }


def _box(told: Mapping[str, Any] | None) -> outbox.Outbox:
    if not told:
        return outbox.Outbox()
    nobody = {(lane, offset): b"" for lane, offsets in outbox.places(told).items() for offset in offsets}
    return outbox.restored(told, nobody)


def _state(agreement: Agreement, box: outbox.Outbox | None, rules: Rules, now_ms: int) -> tuple[str, str]:
    try:
        target(agreement.delivery.url, rules)
    except Forbidden as error:
        return "not sent", str(error)
    if not agreement.in_force(now_ms):
        return "not sent", "the agreement's term has not begun, or is over"
    if box is None:
        return "nothing yet", ""
    if box.stopped == outbox.LOST:
        why = "deliveries were deleted before they were sent; `sequence` shows which: "
        return "stopped", f"{why}`bus webhook resume {agreement.id}` goes on with the next that is there"
    if box.stopped:
        return "stopped", f"the webhook has said 410 (gone): `bus webhook resume {agreement.id}` goes on"
    if box.failures:
        return "failing", f"failures in a row: {box.failures}; `bus webhook resume {agreement.id}` tries at once"
    if box.given_up():
        return "sending", f"{box.given_up()} given up: `bus webhook retry {agreement.id}` sends them again"
    return "sending", ""


def _instant(at_ms: int | None) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if at_ms else None
