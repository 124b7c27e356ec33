"""The gate of an edge: callers by the keys and tokens that they present, from files that may change under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airdraft.core.callers import Caller
from airdraft.core.errors import Unauthenticated
from airdraft.identity.keys import SECRET_PREFIX, read_keys
from airdraft.identity.thumbprints import thumbprint_of
from airdraft.identity.tokens import read_issuers
from airdraft.identity.watched import Watched

MAX_BEARER_BYTES = 4096
"""Of a key or token; longer ones are refused unread."""

UNKNOWN = (
    "this edge does not know these credentials; check which edge this is, the key file and the certificate, "
    "or ask its operator for new ones"
)
"""What everybody hears who is not known, whatever it was that did not fit."""


class Gate:
    """Tells callers by a key file, by the tokens of some issuers, or by both; see ``Gatekeeper``.

    keys               a file of static keys; None: there are none
    issuers            a file of public keys of issuers; None: no token is taken
    wants_certificate  let nobody in without a client certificate, and no token that is not bound to one
    clock              seconds since 1970: when credentials begin and end
    monotonic          seconds: when to look at the files again
    report             takes one line, when a file was read again or no longer can be

    Raises IdentityFileError where a file cannot be used at first; later its last good state stays in force.
    """

    def __init__(
        self,
        *,
        keys: Path | None,
        issuers: Path | None,
        wants_certificate: bool,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        if keys is None and issuers is None:
            raise ValueError("a gate needs a file of keys, of issuers, or both")
        self._keys = None if keys is None else Watched(keys, read_keys, monotonic, report)
        self._issuers = None if issuers is None else Watched(issuers, read_issuers, monotonic, report)
        self._wants_certificate = wants_certificate
        self._clock = clock

    def admit(self, bearer: str, certificate: bytes) -> Caller:
        """Return who presents this; see ``Gatekeeper``.

        One digest or one signature is the work for a stranger. Raises Unauthenticated, with a text of its own only for
        whoever holds all that is needed and comes at the wrong time.
        """
        caller = self._caller(bearer, certificate)
        if caller is None:
            raise Unauthenticated(UNKNOWN)
        return caller

    def _caller(self, bearer: str, certificate: bytes) -> Caller | None:
        if len(bearer) > MAX_BEARER_BYTES or not bearer.isascii() or (self._wants_certificate and not certificate):
            return None
        try:
            thumbprint = thumbprint_of(certificate) if certificate else b""
        except ValueError:
            return None
        now_s = self._clock()
        if bearer.startswith(SECRET_PREFIX):
            return None if self._keys is None else self._keys.value().find(bearer, thumbprint, now_s)
        if self._issuers is None:
            return None
        return self._issuers.value().verify(bearer, thumbprint, now_s, must_be_bound=self._wants_certificate)
