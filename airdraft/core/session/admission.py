"""Who may attach to a session: epochs, settings that must not change, and receipts for text that is presented."""

from __future__ import annotations

from dataclasses import dataclass

from airdraft.core.errors import BadReceipt, MalformedFrame, SessionMismatch, StaleEpoch
from airdraft.core.receipts import ReceiptKey
from airdraft.core.types import Identity, Open, Sampling, Semantic


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a session keeps from its first ``Open``; every later one must repeat it."""

    identity: Identity
    sampling: Sampling
    stop_ids: frozenset[int]
    max_tokens: int
    prompt_length: int
    semantic: Semantic | None

    @classmethod
    def of(cls, opened: Open) -> _Settings:
        return cls(
            opened.identity,
            opened.sampling,
            frozenset(opened.stop_ids),
            opened.max_tokens,
            opened.prompt_length,
            opened.semantic,
        )


class Admission:
    """Judges each attach of one session."""

    def __init__(self, first: Open, receipts: ReceiptKey | None, *, own_text_only: bool) -> None:
        """Take the settings from the first attach; see ``EdgeSession`` for the rest."""
        self._settings = _Settings.of(first)
        self._first, self._receipts, self._own_text_only = first, receipts, own_text_only

    @property
    def semantic(self) -> bool:
        """Return whether the device asks for acceptance by meaning."""
        return self._settings.semantic is not None

    def judge(self, opened: Open, epoch: int, *, held: bool, attested: bool) -> bool:
        """Say whether what a device presents is known for this fleet's own text.

        epoch     the highest seen
        held      what is presented is the beginning of the text that is kept here
        attested  the text that is kept here is known for the fleet's own

        Raises StaleEpoch, SessionMismatch, MalformedFrame, BadReceipt.
        """
        if opened.epoch <= epoch:
            raise StaleEpoch(
                f"epoch {opened.epoch} is not above {epoch}; attach with a higher one",
                field="epoch",
                highest_epoch=epoch,
            )
        if _Settings.of(opened) != self._settings:
            raise SessionMismatch("this session was opened with other settings; use a new session id", field="open")
        if not opened.prompt_length <= opened.length <= self._settings.prompt_length + self._settings.max_tokens:
            raise MalformedFrame("length lies outside prompt and answer", field="length")
        signed = self._receipts is not None and self._receipts.accepts(opened)
        if not signed and self._receipts is not None and self._receipts.knows(opened.receipt):
            raise BadReceipt("the receipt is not for what it came with", field="receipt")
        if held:
            return attested or signed
        if not signed and self._own_text_only and opened.length > opened.prompt_length:
            raise BadReceipt("this edge goes on with no answer but its own fleet's; begin anew", field="receipt")
        return signed or opened.length == opened.prompt_length

    def spent(self, opened: Open) -> float:
        """Return what meaning has spent of the text that a device presents, by the word of this fleet."""
        return 0.0 if self._receipts is None else self._receipts.spent(opened)

    def receipt(self, epoch: int, digest: bytes, spent: float) -> bytes:
        """Return the word for a text with this digest; empty where this edge gives none."""
        if self._receipts is None:
            return b""
        return self._receipts.sign(self._first, epoch, digest, spent if self.semantic or spent else None)
