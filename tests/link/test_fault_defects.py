"""What the fault machine once found in the edge's core, each as the shortest way to it."""

from __future__ import annotations

from collections.abc import Sequence

from airdraft.core.paths import ids_digest, next_hash, root_hash
from airdraft.core.session import EdgeSession
from airdraft.core.types import Commit, Draft, EdgeFrame, Limits, NeedPrefix, Open, PassResult, Prefix, Sampling
from airdraft.link.virtual_time import RowEngine
from tests.core.worlds import IDENTITY, alone, pseudo_target

PROMPT = (1, 2, 3)
TEXT = tuple(alone(PROMPT, 20))


def opened(epoch: int, length: int) -> Open:
    """Return an attach with the first ``length`` ids of the text, which are not sent along."""
    digest = ids_digest(TEXT[:length])
    return Open(b"s" * 16, epoch, IDENTITY, Sampling(), (), 20, len(PROMPT), length, digest, None)


def path_hash(ids: Sequence[int]) -> bytes:
    value = root_hash(IDENTITY)
    for token in ids:
        value = next_hash(value, token)
    return value


def written(session: EdgeSession, engine: RowEngine) -> list[EdgeFrame]:
    """Run passes until none is due."""
    frames: list[EdgeFrame] = []
    while (work := session.next_pass()) is not None:
        frames += session.finished_pass(work, PassResult(engine.extend(work.span)))
    return frames


def begun() -> tuple[EdgeSession, RowEngine]:
    """Return an edge that holds the prompt and one token of its own, all of it acked."""
    session, engine = EdgeSession(opened(1, 3), Limits(4096)), RowEngine(pseudo_target)
    session.attach(opened(1, 3))
    session.received(Prefix(1, 0, PROMPT))
    assert [frame for frame in written(session, engine) if isinstance(frame, Commit)]
    session.received(Draft(1, 1, 4, 4, path_hash(TEXT[:4])))
    return session, engine


def test_an_older_journal_meets_a_missing_prefix() -> None:
    """The device went on elsewhere, came back, was killed before its prefix was here, and lost its last records."""
    session, engine = begun()
    session.received(Draft(1, 2, 4, 4, path_hash(TEXT[:4]), TEXT[4:6]))
    written(session, engine)  # the text is three tokens longer here, of which the device has seen none
    assert NeedPrefix(2, 4) in session.attach(opened(2, 9))
    session.attach(opened(3, 4))
    commits = [frame for frame in written(session, engine) if isinstance(frame, Commit)]
    assert [commit.ids for commit in commits] == [TEXT[4:5]]


def test_a_text_is_cut_before_accepted_siblings_were_gathered() -> None:
    """A wrong sibling lies before the right one in the cache, and the device comes back with more than is known."""
    session, engine = begun()
    ids = ((TEXT[4] + 1) % 50, TEXT[4])
    session.received(Draft(1, 2, 4, 4, path_hash(TEXT[:4]), ids, parents=(-1, -1)))
    written(session, engine)
    session.received(Draft(1, 3, 6, 6, path_hash(TEXT[:6])))
    session.attach(opened(2, 9))
    session.received(Prefix(2, 6, TEXT[6:9]))
    commits = [frame for frame in written(session, engine) if isinstance(frame, Commit)]
    assert [commit.ids for commit in commits] == [TEXT[9:10]]


def test_a_draft_of_the_edge_is_cut_where_the_device_comes_back_with_less_than_it_had_acked() -> None:
    """What was written while more was acked would lead further past the ack than the edge may go."""
    first = opened(1, 3)
    session, engine = EdgeSession(first, Limits(4096, ahead_tokens=2), own_draft_tokens=4), RowEngine(pseudo_target)
    session.attach(first)
    session.received(Prefix(1, 0, PROMPT))
    written(session, engine)
    session.received(Draft(1, 1, 4, 4, path_hash(TEXT[:4]), idle=True))
    wish = session.own_draft()
    assert wish is not None
    session.own_drafted(wish, TEXT[4:5])
    session.attach(opened(2, 3))
    session.received(Draft(2, 1, 3, 3, path_hash(TEXT[:3]), idle=True))
    work = session.next_pass()
    assert work is not None
    assert work.nodes == 0
