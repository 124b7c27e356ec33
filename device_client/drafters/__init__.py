"""Drafters by name: one table. A new one is a class with two verbs (``airdraft.core.drafting``) and a line here."""

from __future__ import annotations

from collections.abc import Callable

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.errors import TokenizerMismatch
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Sampling
from airdraft.wire.describe import Description


class DrafterUnavailable(ValueError):
    """The drafter's packages or files are not there; the text says what to do."""


def _ngram(reference: str, revision: str | None, target: Description, sampling: Sampling) -> Drafter:
    return NgramDrafter()


def _torch(reference: str, revision: str | None, target: Description, sampling: Sampling) -> Drafter:
    try:
        from device_client.drafters.torch_model import load_torch_drafter
    except ModuleNotFoundError as error:
        raise DrafterUnavailable(
            f"drafter {reference} needs {error.name}: pip install 'airdraft[device-torch]', or --draft-model ngram"
        ) from error
    drafter, tokenizer_json = load_torch_drafter(
        reference, revision=revision, vocabulary=target.vocabulary, sampling=sampling
    )
    if tokenizer_digest(tokenizer_json) != target.tokenizer_digest:
        raise TokenizerMismatch(
            f"drafter {reference} and target {target.model_name} have different tokenizers; "
            "choose a drafter of the target's family, or --draft-model ngram"
        )
    return drafter


DRAFTERS: dict[str, Callable[[str, str | None, Description, Sampling], Drafter]] = {
    "ngram": _ngram,
    "torch": _torch,
}


def load_drafter(reference: str, revision: str | None, target: Description, sampling: Sampling) -> Drafter:
    """Return the drafter that ``--draft-model`` names: ``ngram``, ``demo``, a folder or a hub id.

    It drafts by the session's ``sampling``, so that its noise is the target's.

    Raises DrafterUnavailable, TokenizerMismatch, CheckpointRefused.
    """
    kind = reference if reference in DRAFTERS else "torch"
    return DRAFTERS[kind](reference, revision, target, sampling)
