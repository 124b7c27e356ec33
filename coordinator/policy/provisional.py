"""What provisional run-ahead is expected to cost, how long its tokens are held, and what a miss costs a session.

In a semantic session the edge may decode ahead and hold its tokens back for the device's drafts of them (DESIGN §6):
an equal one commits a token without a pass, a harmless one takes its place and voids what was decoded behind it, a
harmful one commits all that was held. As in ``expected``, nothing that the edge does in a stretch, which here ends with
a harmful miss, changes when the device's drafts arrive: the t-th at A(t) = R + t d. The edge holds its own t-th token
from t s on, for a pass of s. So

  while it is ahead, A(t) > t s, and no wording has differed yet, the t-th token is committed at A(t);
  a harmful one is known half a pass and the pass that judges it later, at A(t) + 3/2 s, and brings along all that was
  decoded by then, some A(t)/s tokens: no slower than the edge alone;
  behind the first harmless one, or once the device has overtaken the edge, passes verify drafts as they come, as in a
  pipelined split, and another wording costs nothing.

With S(t) the chance that the first t - 1 tokens are the target's own, given that they stand, w(t) that the stretch ends
with the t-th, P(t) the time of the last pass in the first case and Q(t) in the other, the seconds of a token are

  sum of w(t) (S(t) P(t) + (1 - S(t)) Q(t))  over  sum of w(t) (S(t) P(t)/s + (1 - S(t)) t).

Against the cores in virtual time: within 10 % for round trips of 0 to 300 ms (``tests/coordinator/test_provisional``).
"""

from __future__ import annotations

from coordinator.policy.expected import Expected, Setting, draft_step_s, stretch, with_drafts


def provisional(setting: Setting, frame_tokens: int = 1, frames: int = 512) -> Expected:
    """Return what a token costs where the edge's own tokens wait for the device's drafts of them.

    frames  of ``frame_tokens`` that may fly at once, credits permitting
    """
    step_s, trip_s = draft_step_s(setting, frame_tokens), setting.round_trip_s
    most = min(setting.live_nodes, frame_tokens * frames)
    alive, ended = stretch(tuple(setting.chances))
    last, still_s, position_s = len(alive) - 1, setting.pass_s(0), setting.target.per_position_s
    share_s, frame_s, alone_s = setting.share_s(0), frame_tokens * step_s, setting.pass_s(1)
    now_s = seconds = edge_s = widened = more = 0.0
    tokens = passes = positions = 0
    before, same = 1.0, 1.0  # the chance that the stretch is not over before this pass, and S
    while True:
        line = int((now_s - trip_s) / frame_s + 1e-9) * frame_tokens - tokens if now_s > trip_s else 0
        if line <= 0:
            now_s = trip_s + -(-(tokens + 1) // frame_tokens) * frame_s + setting.turn_s
            line = int((now_s - trip_s) / frame_s + 1e-9) * frame_tokens - tokens
        width = min(line, most) + 1
        now_s += still_s + position_s * width
        passes, positions = passes + 1, positions + width
        token, tokens = tokens, tokens + width
        after = alive[tokens] if tokens < last else 0.0
        ends, before = before - after, after
        seconds += ends * now_s
        edge_s += ends * (passes * share_s + positions * position_s)
        widened += ends * positions * position_s
        while same and token < min(tokens, last):
            token += 1
            arrives_s = trip_s + -(-token // frame_tokens) * frame_s
            if arrives_s <= token * alone_s:
                same = 0.0  # overtaken
                break
            held_s = arrives_s + 0.5 * alone_s
            ended_s = held_s + still_s + position_s * (2 + held_s / alone_s - token)
            ends = same * (alive[token - 1] - (alive[token] if token < last else 0.0))
            seconds += ends * (ended_s - now_s)
            more += ends * (ended_s / alone_s - token)
            chance = setting.chances[min(token, len(setting.chances)) - 1]
            same *= setting.exact(token - 1) / chance if chance else 0.0
        if not after:
            break
    # Until the first draft is there the edge decodes: for nothing where another wording stands.
    first = (trip_s + frame_s) / alone_s
    edge_s, widened = edge_s + first * setting.share_s(1), widened + first * position_s
    length = ended + alive[last] * tokens + more
    expected = Expected(seconds / length, min(edge_s, seconds) / length, 0.0, 0.0, widened / length)
    return with_drafts(expected, setting, frame_tokens, frames)


def provisional_s(setting: Setting, frame_tokens: int) -> float:
    """Return how long the edge is to hold a token of its own for a draft of it.

    A draft of what follows a miss comes a round trip and a frame later, a slow round trip on a link that wavers; it
    may find the edge at work on a pass.
    """
    trip_s = max(setting.round_trip_s, setting.late_round_trip_s)
    return trip_s + frame_tokens * draft_step_s(setting, frame_tokens) + setting.pass_s(1)


def miss_s(setting: Setting, frame_tokens: int) -> float:
    """Return what a miss costs: the seconds until a drafted token can be committed again.

    frame_tokens  of the plan's frames; 0: nothing is drafted, and no miss costs anything

    The correction goes down, a frame is written and comes up, and a pass judges it. It never falls as the round trip
    rises, so that who is near is judged strictly.
    """
    if not frame_tokens:
        return 0.0
    still_s = setting.round_trip_s + setting.turn_s
    return still_s + frame_tokens * draft_step_s(setting, frame_tokens) + setting.pass_s(frame_tokens + 1)
