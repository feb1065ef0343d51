"""Payload of `users.registered`: somebody signed up elsewhere."""

from typing import Annotated

from pydantic import StringConstraints

from faregate.events.data import EventData
from faregate.events.fields import ID_PATTERN, Id

# RFC 5321, section 4.5.3.1: 64 characters before the @ and 255 after it.
EMAIL_MAX_CHARS = 320
Email = Annotated[
    str, StringConstraints(min_length=1, max_length=EMAIL_MAX_CHARS, pattern=ID_PATTERN)
]


class UserRegisteredV1(EventData):
    """A user exists now; registering twice gives the welcome credits once."""

    user_id: Id
    email: Email | None = None
    org_id: Id | None = None
    email_verified: bool | None = None
    referral: Id | None = None
