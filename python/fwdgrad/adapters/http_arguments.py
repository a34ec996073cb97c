"""The URL and the headers of requests: checked, and never shown where they may hold a secret."""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwdgrad.checks import check_number
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.outputs import told

if TYPE_CHECKING:
    import httpx2


def positive(name: str, value: Any) -> float:
    """A positive finite number; errors name the argument.

    >>> positive("timeout", 3)
    3.0
    """
    number = check_number(name, value)
    if not 0 < number < float("inf"):
        raise ArgumentError(name, f"must be positive and finite, got {value}")
    return number


def checked_url(url: Any) -> httpx2.URL:
    """A URL of http or https without a password in it.

    >>> checked_url("model.test/score")
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: url must be http://host... or https://host..., got \
'model.test/score'
    """
    import httpx2

    if not isinstance(url, str):
        raise ArgumentTypeError("url", f"must be a text, got {type(url).__name__}")
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ArgumentError("url", f"cannot be read: {told(error, 100)}") from None
    if found.userinfo:
        raise ArgumentError(
            "url",
            "must have no password, which would be shown; give auth=(name, password)",
        )
    if found.scheme not in ("http", "https") or not found.host:
        shown = str(found.copy_with(query=None))
        raise ArgumentError("url", f"must be http://host... or https://host..., got {shown!r}")
    return found


def checked_headers(argument: str, headers: Any) -> dict[str, str]:
    """Headers whose values may be sent; an error does not show them.

    >>> checked_headers("headers", {"X-Key": "secret\\n"})
    {'X-Key': 'secret'}
    """
    if headers is not None and not isinstance(headers, Mapping):
        raise ArgumentTypeError(
            argument, f"must be a dict of names and values, got {type(headers).__name__}"
        )
    found = {}
    for name, value in (headers or {}).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ArgumentTypeError(
                argument, f"must have texts, got {type(value).__name__} for {name!r}"
            )
        value = value.strip()  # a file that a key came from ends with a line break
        if not value.isascii() or not value.isprintable():
            raise ArgumentError(argument, f"has a value for {name!r} that no header may have")
        found[name] = value
    return found


def from_environment(headers: Any) -> Any:
    """Headers with the environment's values in place of its variables' names.

    >>> from_environment({"Authorization": "Bearer $NO_SUCH_KEY"})
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: headers_from names NO_SUCH_KEY, which the environment does not \
have; export it
    """
    if not isinstance(headers, Mapping):
        return headers
    found = {}
    for name, text in headers.items():
        try:
            found[name] = string.Template(text).substitute(os.environ)
        except KeyError as error:
            raise ArgumentError(
                "headers_from",
                f"names {error.args[0]}, which the environment does not have; export it",
            ) from None
        except (TypeError, ValueError):
            found[name] = ""
        if not isinstance(text, str) or found[name] == text or not found[name]:
            # Not shown: it may be the key itself.
            raise ArgumentError(
                "headers_from",
                f"must name a variable of the environment for {name!r}, as in 'Bearer $API_KEY'; "
                "the value itself goes into headers=",
            )
    return found


def secrets_of(headers: Mapping[str, str], url: httpx2.URL, options: dict[str, Any]) -> list[str]:
    """What a server may send back and no message shows; the longest first.

    >>> import httpx2
    >>> secrets_of({"X-Key": "Bearer abcdef"}, httpx2.URL("http://model.test?sig=123456"), {})
    ['Bearer abcdef', '123456', 'abcdef']
    """
    found = {part for value in headers.values() for part in (value, value.split(" ")[-1])}
    found |= {value for _, value in url.params.multi_items()}
    auth = options.get("auth")
    found |= {part for part in auth if isinstance(part, str)} if isinstance(auth, tuple) else set()
    return sorted((one for one in found if len(one) >= 6), key=lambda one: (-len(one), one))
