"""Every expected condition has its refusal, its status and its way back."""

from __future__ import annotations

from airdraft.core.errors import SpecError, error_of, refusal
from airdraft.core.types import RefusalCode


def test_every_refusal_code_belongs_to_one_error_and_back() -> None:
    codes = [kind.code for kind in SpecError.__subclasses__() if kind.code is not None]
    assert sorted(codes) == sorted(RefusalCode)
    for kind in SpecError.__subclasses__():
        if kind.code is None:
            continue
        error = kind("what to do", field="ids", retry_after_s=2.0, seq=7, highest_epoch=3)
        again = error_of(refusal(error, 5))
        assert type(again) is kind
        assert vars(again) == vars(error)
