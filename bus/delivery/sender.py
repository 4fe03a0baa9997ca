"""One request to a webhook's endpoint, and what became of it. No redirects, no proxies, no cookies, bounded in time and size.

The host's name is looked up once for each connection, every address of the answer is looked at, and the connection goes to one
of these and to no other; Host and SNI stay the name's.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from bus.delivery import target as targets
from bus.delivery.outbox import Outcome
from bus.delivery.target import Rules, Target

TIMEOUT_SECONDS = 15.0
"""For all of it: looking up, connecting, sending, the answer's head."""
_CONNECT_SECONDS = 10.0
_REPLY_BYTES = 4_096
"""Most of an answer's body that is read, only so that the connection can be used again."""
_REPLY_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_LOOKUPS = 64
"""Names that are looked up at once, at most."""
LONGEST_RETRY_AFTER_SECONDS = 86_400
"""A receiver that asks for more is asked again after this."""
_USER_AGENT = "lien-thong"

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""(host, port) -> addresses. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`code`: an HTTP status, or a word from a closed list; nothing that the receiver wrote."""

    outcome: Outcome
    code: str
    retry_after_seconds: int = 0


class Cancelled(Exception):
    """The endpoint was stopped while a request was under way."""


class _ForbiddenAddress(OSError):
    """The name leads where nothing may be sent."""


class _Pinned(AbstractResolver):
    def __init__(self, rules: Rules, lookup: Lookup) -> None:
        self._rules, self._lookup = rules, lookup

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002  # aiohttp's signature
    ) -> list[ResolveResult]:
        """Of both families, whatever `family` says."""
        addresses = await self._lookup(host, port)
        if not addresses or any(targets.refusal(address, host, self._rules) for address in addresses):
            raise _ForbiddenAddress("an address that is not public")
        return [self._result(host, port, address) for address in addresses]

    def _result(self, host: str, port: int, address: str) -> ResolveResult:
        return ResolveResult(
            hostname=host,
            host=address,
            port=port,
            family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST,
        )

    async def close(self) -> None:
        """Nothing is held."""


async def look_up(host: str, port: int) -> list[str]:
    """By the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def trusting(ca_file: str) -> ssl.SSLContext:
    """The system's certificate authorities and those in the file, PEM, '' for none. Raises OSError (an SSLError is one)."""
    made = ssl.create_default_context()
    if ca_file:
        made.load_verify_locations(ca_file)
    return made


class Sender:
    """Requests of all endpoints, in a thread of its own. `ca_file`: further certificate authorities, PEM."""

    def __init__(
        self, rules: Rules, ca_file: str = "", lookup: Lookup = look_up, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._rules, self._lookup, self._timeout_seconds = rules, lookup, timeout_seconds
        self._tls = trusting(ca_file)
        self._loop = asyncio.new_event_loop()
        # A resolver that does not answer holds a thread longer than a request lasts; no endpoint's must hold up another's.
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="sender", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    async def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(self._rules, self._lookup), use_dns_cache=False, limit=0, ssl=self._tls, keepalive_timeout=15
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds, sock_connect=_CONNECT_SECONDS),
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
        )

    def send(self, to: Target, headers: Mapping[str, str], body: bytes, stopped: Callable[[], bool] = lambda: False) -> Reply:
        """Blocks. Raises Cancelled within a moment of `stopped`."""
        under_way: Future[Reply] = asyncio.run_coroutine_threadsafe(self._send(to, headers, body), self._loop)
        while True:
            try:
                return under_way.result(_LOOK_SECONDS)
            except NotYet:
                if stopped():
                    under_way.cancel()
                    raise Cancelled from None
            except CancelledError:
                raise Cancelled from None

    async def _send(self, to: Target, headers: Mapping[str, str], body: bytes) -> Reply:
        host = f"[{to.host}]" if ":" in to.host else to.host
        url = URL.build(scheme=to.scheme, host=host, port=to.port, path=to.path, query_string=to.query, encoded=True)
        try:
            async with (
                asyncio.timeout(self._timeout_seconds + _REPLY_SECONDS),
                self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                reply = reply_of(answer.status, answer.headers, time.time())
                await _finish(answer)
                return reply
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _failure(error)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _finish(answer: aiohttp.ClientResponse) -> None:
    """A short answer is read to its end, and the connection used again; of any other, the connection is closed."""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_REPLY_SECONDS):
            left = _REPLY_BYTES
            while left > 0 and (chunk := await answer.content.read(left)):
                left -= len(chunk)
    if not answer.content.at_eof():
        answer.close()


def reply_of(status: int, headers: Mapping[str, str], now_seconds: float) -> Reply:
    """Only 2xx is success; a redirection is none and is not followed."""
    code = str(status)
    if 200 <= status < 300:
        return Reply(Outcome.DELIVERED, code)
    if status == 410:
        return Reply(Outcome.GONE, code)
    after = retry_after_seconds(headers.get("Retry-After", ""), now_seconds) if status in (429, 503) else 0
    if after or status == 429:
        return Reply(Outcome.SLOW_DOWN, code, after)
    return Reply(Outcome.REFUSED, code)


def retry_after_seconds(text: str, now_seconds: float) -> int:
    """RFC 9110: seconds or a date; 0 where it says nothing that can be used, never more than the bound."""
    if text.isascii() and text.isdigit() and len(text) < 12:
        return min(int(text), LONGEST_RETRY_AFTER_SECONDS)
    try:
        when = email.utils.parsedate_to_datetime(text[:64]).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return 0
    return min(max(0, int(when - now_seconds) + 1), LONGEST_RETRY_AFTER_SECONDS) if when > now_seconds else 0


def _failure(error: Exception) -> Reply:
    inner: Any = getattr(error, "os_error", None)
    if isinstance(inner, _ForbiddenAddress) or isinstance(error.__cause__, _ForbiddenAddress):
        return Reply(Outcome.UNREACHABLE, "forbidden address")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Reply(Outcome.UNREACHABLE, "unknown host")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return Reply(Outcome.UNREACHABLE, "tls")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Reply(Outcome.UNREACHABLE, "no connection")
    if isinstance(error, TimeoutError):
        return Reply(Outcome.REFUSED, "timeout")
    return Reply(Outcome.REFUSED, "cut off")
