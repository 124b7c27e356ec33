"""Semantic acceptance, pure: states, heads, risk tables, rules, and the judge of one session (DESIGN §6)."""

from airdraft.core.meaning.audit import AuditTest
from airdraft.core.meaning.head import CHANNEL_REACH, STRICT, Channel, HeadTail
from airdraft.core.meaning.judge import WRONG_S, MeaningJudge, Swap
from airdraft.core.meaning.risk import RiskTable
from airdraft.core.meaning.rules import RULES, UNTRAINED_RISK, Context, Need, Rule
from airdraft.core.meaning.states import pack_rows, row_bytes, unpack_rows

__all__ = [
    "CHANNEL_REACH",
    "RULES",
    "STRICT",
    "UNTRAINED_RISK",
    "WRONG_S",
    "AuditTest",
    "Channel",
    "Context",
    "HeadTail",
    "MeaningJudge",
    "Need",
    "RiskTable",
    "Rule",
    "Swap",
    "pack_rows",
    "row_bytes",
    "unpack_rows",
]
