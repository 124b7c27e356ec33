"""Drafters by name: one table. A new one is a class with two verbs (``airdraft.core.drafting``) and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from airdraft.core.drafting import Drafter, NgramDrafter
from airdraft.core.errors import TokenizerMismatch
from airdraft.core.tokenizer_digest import tokenizer_digest
from airdraft.core.types import Sampling
from airdraft.manifest import read_manifest
from airdraft.wire.describe import Description


class DrafterUnavailable(ValueError):
    """The drafter's packages or files are not there; the text says what to do."""


def _ngram(
    reference: str, revision: str | None, target: Description, sampling: Sampling, manifest: Path | None
) -> Drafter:
    return NgramDrafter()


def _torch(
    reference: str, revision: str | None, target: Description, sampling: Sampling, manifest: Path | None
) -> Drafter:
    try:
        from device_client.drafters.torch_model import load_torch_drafter
    except ModuleNotFoundError as error:
        raise DrafterUnavailable(
            f"drafter {reference} needs {error.name}: pip install 'airdraft[device-torch]', or --draft-model ngram"
        ) from error
    drafter, tokenizer_json = load_torch_drafter(
        reference,
        revision=revision,
        vocabulary=target.vocabulary,
        sampling=sampling,
        manifest=None if manifest is None else read_manifest(manifest),
    )
    if tokenizer_digest(tokenizer_json) != target.tokenizer_digest:
        raise TokenizerMismatch(
            f"drafter {reference} and target {target.model_name} have different tokenizers; "
            "choose a drafter of the target's family, or --draft-model ngram"
        )
    return drafter


DRAFTERS: dict[str, Callable[[str, str | None, Description, Sampling, Path | None], Drafter]] = {
    "ngram": _ngram,
    "torch": _torch,
}


def load_drafter(
    reference: str, revision: str | None, target: Description, sampling: Sampling, manifest: Path | None = None
) -> Drafter:
    """Return the drafter that ``--draft-model`` names: ``ngram``, ``demo``, a folder or a hub id.

    It drafts by the session's ``sampling``, so that its noise is the target's. With a ``manifest`` nothing is loaded
    but what that lists.

    Raises DrafterUnavailable, TokenizerMismatch, CheckpointRefused.
    """
    kind = reference if reference in DRAFTERS else "torch"
    return DRAFTERS[kind](reference, revision, target, sampling, manifest)
