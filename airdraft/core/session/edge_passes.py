"""What an edge's session does next, and the forward pass for it."""

from __future__ import annotations

from airdraft.core.paths import Node
from airdraft.core.sampling import penalised
from airdraft.core.session.edge_state import EdgeState
from airdraft.core.session.passes import PASS_NODES, PREFILL_POSITIONS, Wish, verifying_span
from airdraft.core.types import Pass, Span, Work


def wish_of(state: EdgeState) -> Wish | None:
    """Return what the next pass would be for, or None where there is nothing to do until another event."""
    state.sits_until_s = None
    if not state.may_pass:
        return None
    branch = state.branch(PASS_NODES)
    # A draft of the text's last position alone is not verified, but it waits for an answer: the next token is one.
    drafted = branch is not None if state.provisional.tokens else bool(state.drafts.tree.nodes)
    if state.own_draft_due or not (drafted or state.token_due or state.may_run()):
        return None
    if branch is None:
        lacking, nodes = state.line_length - state.rows.length, len(state.line_nodes())
    else:
        lacking, nodes = _lacking(state), sum(map(len, branch))
    if lacking > 1:
        return Wish(Work.PREFILL, lacking + nodes)
    if drafted or state.token_due or state.drafts.idle:
        return Wish(Work.VERIFY if nodes else Work.DECODE, 1 + nodes)
    return Wish(Work.RUN_AHEAD, 1 + nodes)


def next_pass(state: EdgeState, positions: int) -> Pass | None:
    """Put the session's next forward pass in flight and return it; None as ``wish_of``.

    positions  how many it may have, above 0
    """
    wish = wish_of(state)
    if wish is None:
        return None
    text, lacking, widest = state.text, _lacking(state), min(positions, PREFILL_POSITIONS)
    branch = state.branch(positions - lacking) if lacking <= widest else None
    state.branches = branch is not None
    state.no_room = lacking == positions == 1 and bool(state.drafts.tree.nodes)
    base, base_hash = state.line_length, state.line_end
    if branch is not None:  # the rows of what is held back are computed again, beside the device's line
        state.rows.cut(text.length - 1)
        base, base_hash = text.length, text.path.end
    start = state.rows.length
    ids = state.line_from(start)[: base - start]
    nodes: list[Node] = []
    own = 0
    if len(ids) > widest:
        span = Span(start, tuple(ids[:widest]), gather=state.rows.gather)
    else:
        if branch is not None:
            nodes, own = [*branch[0], *branch[1]], len(branch[1])
        else:
            nodes = state.line_nodes()[: max(0, positions - len(ids))]
            own = sum(node.path_hash not in state.drafts.tree.nodes for node in nodes)
        span = verifying_span(ids, start, nodes, state.rows.gather)
    state.in_flight = Pass(
        state.epoch,
        base,
        base_hash,
        span,
        state.sampling,
        state.drafts.last_seq,
        len(nodes),
        tuple(state.line_from(0)[:base]) if penalised(state.sampling) else range(base),
        own=own,
        work=wish.work,
        row=state.row_wanted and bool(nodes) and bool(state.drafts.tree.nodes) and branch is None,
        judged=len(nodes) > own and state.judging is not None and state.judging.judges,
    )
    if state.run_ahead is not None:
        state.run_ahead.goes_on()
    return state.in_flight


def _lacking(state: EdgeState) -> int:
    """Return how many rows a pass must compute before it can judge what hangs under the committed end."""
    return max(1, state.text.length - state.rows.length)
