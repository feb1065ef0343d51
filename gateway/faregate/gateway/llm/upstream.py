"""The upstream: an OpenAI-compatible interface, called with a key that never comes back out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx
import structlog
from pydantic import SecretStr

from faregate.events import tracing
from faregate.gateway.byok import providers
from faregate.gateway.llm.asked import Asked
from faregate.gateway.llm.reported import parse
from faregate.gateway.problems import Problem

log = structlog.get_logger("faregate.gateway")

MAX_ANSWER_BYTES = 33_554_432
_MAX_ERROR_BYTES = 65_536
_MAX_DETAIL = 500
_CONNECT_S = 10.0
_CONNECTIONS = 1_000
_KEEP_ALIVE_S = 4.0
"""A little less than most servers keep an idle connection: none is used while its server ends it."""
_MAX_HEADER_BYTES = 65_536
_SUCCESS = 2
_REFUSED = frozenset({400, 404, 405, 409, 413, 415, 422})
"""What is wrong with the request itself: the caller can correct it."""
_OPERATORS = frozenset({"auth_error", "no_db_connection"})
"""LiteLLM's words for a key that it does not know, with status 400 when it has no database."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes, and whose key pays; `provider` is None for the installation's own."""

    base_url: str
    key: SecretStr | None
    provider: str | None = None


class Reply:
    """What the upstream answers."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    @property
    def is_stream(self) -> bool:
        """Whether it comes as events."""
        return self.media_type.startswith("text/event-stream")

    @property
    def media_type(self) -> str:
        """What kind of answer it is."""
        return str(self._answer.headers.get("content-type", "application/json"))

    def pieces(self) -> AsyncIterator[bytes]:
        """Give the answer as it comes."""
        return self._answer.content.iter_any()

    async def whole(self) -> bytes:
        """Read all of it. Raises Problem `upstream_error` where it is too long."""
        return await _read(self._answer, MAX_ANSWER_BYTES)


class Upstream:
    """Calls upstreams, over connections that are kept. Follows no redirect, uses no proxy."""

    def __init__(self, timeout_s: float) -> None:
        connect_s = min(_CONNECT_S, timeout_s)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                keepalive_timeout=_KEEP_ALIVE_S,
                ssl=httpx.create_ssl_context(trust_env=False),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),  # whoever is answered, it is for them alone
            timeout=aiohttp.ClientTimeout(
                total=None, connect=connect_s, sock_connect=connect_s, sock_read=timeout_s
            ),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    @asynccontextmanager
    async def completion(self, target: Target, asked: Asked) -> AsyncIterator[Reply]:
        """Ask for a completion. Raises Problem when it is refused, aiohttp.ClientError, TimeoutError."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
            **(providers.headers(target.provider, target.key) if target.key else {}),
        }
        place = f"{target.base_url}/chat/completions"
        with _span(target, asked) as span:
            context = tracing.current()
            if context is not None and target.provider is None:
                headers |= context.headers()  # ours; a provider of users' own is a stranger
            async with self._client.post(
                place, data=asked.content, headers=headers, allow_redirects=False
            ) as answer:
                span.set({"http.response.status_code": answer.status})
                if answer.status != HTTPStatus.OK:
                    span.failed(str(answer.status))
                    raise refusal(target, answer, await _read(answer, _MAX_ERROR_BYTES))
                yield Reply(answer)

    async def accepts(self, target: Target, path: str, timeout_s: float) -> bool:
        """Show a key to its provider; False where it is refused.

        Raises Problem `upstream_error` when the provider does not say.
        """
        headers = providers.headers(target.provider, target.key) if target.key else {}
        place, patience = target.base_url + path, aiohttp.ClientTimeout(timeout_s)
        try:
            async with self._client.get(
                place, headers=headers, allow_redirects=False, timeout=patience
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise unreachable(error) from None
        if status in {401, 403}:
            return False
        if status // 100 == _SUCCESS:
            return True
        raise Problem("upstream_error", f"The provider answered {status}.")


def _span(target: Target, asked: Asked) -> AbstractContextManager[tracing.Span]:
    """Open the span of a call, by OpenTelemetry's conventions for generative AI.

    A model is named only where it has a price: with their own key callers may write anything.
    """
    said = {"gen_ai.operation.name": "chat"}
    if target.provider is None:
        said["gen_ai.request.model"] = asked.model
    else:
        said["gen_ai.provider.name"] = target.provider
    return tracing.span("chat", "client", attributes=said)


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for piece in answer.content.iter_any():
        parts.append(piece)
        size += len(piece)
        if size > most:
            raise Problem("upstream_error", "The answer of the upstream is too long.")
    return b"".join(parts)


def refusal(target: Target, answer: aiohttp.ClientResponse, content: bytes) -> Problem:
    """Give the problem of an answer that is an error."""
    status, byok = answer.status, target.provider is not None
    log.info("llm_refused", status=status, byok=byok)
    more: dict[str, Any] = {"upstream_status": status}
    if status in {401, 403} and byok:
        return Problem("byok_key_invalid", f"{target.provider} refused the stored key.", **more)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = answer.headers.get("retry-after", "")
        headers = {"Retry-After": wait if wait.isdigit() else "1"}
        return Problem("rate_limited", "The upstream is busy.", headers=headers, **more)
    error = (parse(content) or {}).get("error")
    own = byok or not (isinstance(error, dict) and error.get("type") in _OPERATORS)
    if (status in _REFUSED and own) or (byok and status == HTTPStatus.PAYMENT_REQUIRED):
        return Problem("upstream_refused", _said(target, content), **more)
    return Problem("upstream_error", f"The upstream answered {status}.", **more)


def unreachable(error: BaseException) -> Problem:
    """Give the problem of an upstream that did not answer, or not to the end."""
    log.warning("llm_upstream_away", error=type(error).__name__)
    if isinstance(error, TimeoutError):
        return Problem("upstream_timeout", "The upstream did not answer in time.")
    return Problem("upstream_error", "The upstream cannot be reached, or broke off.")


def _said(target: Target, content: bytes) -> str:
    """Give the upstream's own words about a request, without a key that it may repeat."""
    document = parse(content) or {}
    error = document.get("error")
    text = error.get("message") if isinstance(error, dict) else error or document.get("message")
    said = text if isinstance(text, str) and text.strip() else "It gave no reason."
    if target.key is not None:
        said = said.replace(target.key.get_secret_value(), "***")
    return f"The upstream refused the request: {said[:_MAX_DETAIL]}"
