"""What people do at Keycloak: sign in, register, follow the link in a mail, change their address."""

from __future__ import annotations

import asyncio
import email
import email.policy
import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tests.helpers.keycloak import Keycloak
from tests.integration.gateway.calling import PASSWORD


def sign_in(issuer: Keycloak, username: str = "ada", **more: str) -> dict[str, Any]:
    """Sign in with the application; gives the tokens."""
    named = {"client_id": "app", "username": username, "password": PASSWORD, "scope": "openid"}
    return issuer.tokens(**{**named, **more})


def register_by_form(issuer: Keycloak, address: str) -> str:
    """Register in Keycloak's own form; gives the id."""
    name = address.partition("@")[0]
    asked = {
        "client_id": "app",
        "response_type": "code",
        "scope": "openid",
        "redirect_uri": "http://127.0.0.1/back",
    }
    place = f"{issuer.issuer}/protocol/openid-connect/registrations"
    with httpx.Client(timeout=30, trust_env=False) as browser:
        page = browser.get(place, params=asked)
        fields = {
            "username": name,
            "password": PASSWORD,
            "password-confirm": PASSWORD,
            "email": address,
            "firstName": name.title(),
            "lastName": "Test",
        }
        action = _found(r'action="([^"]+)"', page)
        answer = browser.post(action, data=fields, headers=_cookies(page))
        assert answer.status_code == 302, answer.text[:2000]
    (user,) = issuer.admin("GET", "/users", params={"username": name, "exact": "true"}).json()
    return str(user["id"])


def verify_address(issuer: Keycloak, user_id: str, port: int, mails: list[bytes]) -> None:
    """Have Keycloak send its mail, and follow the link in it."""
    server = {"host": "127.0.0.1", "port": str(port), "from": "id@example.com"}
    issuer.admin("PUT", "", {"smtpServer": server})
    issuer.admin("PUT", f"/users/{user_id}/send-verify-email", params={"client_id": "app"})
    (mail,) = mails
    text = email.message_from_bytes(mail, policy=email.policy.default).get_body(("plain",))
    assert text is not None
    link = re.search(r"http://\S+", str(text.get_content()))
    assert link, text
    with httpx.Client(timeout=30, trust_env=False) as browser:
        page = browser.get(link[0])
        asked = browser.get(
            _found(r'href="([^"]+login-actions[^"]+)"', page), headers=_cookies(page)
        )
        assert asked.status_code < 400, asked.text[:2000]
    assert issuer.admin("GET", f"/users/{user_id}").json()["emailVerified"] is True


def change_address(issuer: Keycloak, username: str, address: str) -> None:
    """Change one's own address in the account console."""
    token = sign_in(issuer, username)["access_token"]
    signed = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    me = issuer.http.get(f"{issuer.issuer}/account", headers=signed).json()
    answer = issuer.http.post(
        f"{issuer.issuer}/account", json={**me, "email": address}, headers=signed
    )
    assert answer.is_success, answer.text


@asynccontextmanager
async def mailbox() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Take in mail by SMTP; gives the port, and what has come."""
    mails: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                mails.append((await reader.readuntil(b"\r\n.\r\n"))[:-5])
            writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
            if word == b"QUIT":
                break
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], mails


def _cookies(page: httpx.Response) -> dict[str, str]:
    """Send cookies that are for secure places: browsers take this machine's address for one."""
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in page.cookies.items())}


def _found(pattern: str, page: httpx.Response) -> str:
    found = re.search(pattern, page.text)
    assert found, page.text[:3000]
    return html.unescape(found[1])
