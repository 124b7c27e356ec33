"""What the front asks of the engine, and what comes back: the values that cross the border between their processes.

The front keeps the sessions and owns the books of the KV pool (``edge_node.kv_pool``); the engine holds the rows and
the model and does what a step says. Rows are numbered through the whole pool. A ``Span`` speaks of rows of its own
session; its extent says where those begin.
"""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct

from airdraft.core.acceptance_chain import SparseQ
from airdraft.core.rows import TargetRow
from airdraft.core.types import Evidence, Sampling, Span


class Extent(Struct, frozen=True):
    """Rows of the pool that one session owns, side by side."""

    first: int
    rows: int


class Owner(Struct, frozen=True):
    """Whose rows are: what one session wrote no other may read, and copies stay within a tenant.

    The default is for a runner that one caller has to itself, as in a bench; 0 is nobody.
    """

    session: int = 1  # never used again; audits count down from -1
    tenant: int = 1


def tenant_number(name: str) -> int:
    """Return the number of a tenant: the same at every edge and for ever, so that nobody keeps a table of names."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) >> 1 or 1


class Fill(Struct, frozen=True):
    """Rows to write before a step's spans run: copies of those from ``source`` on, read before any is written.

    Without a source they are cleared: nothing of who had them before may be left. Copies stay whose they were, as when
    an extent slides, unless ``owner`` names a session that adopts them: all must be the ``lender``'s then, who wrote
    them, and both of one tenant.
    """

    target: int
    rows: int
    source: int | None = None
    owner: Owner | None = None
    lender: Owner | None = None


class Judged(Struct, frozen=True):
    """How an item's drafts are judged."""

    nodes: int  # how many of the span's last tokens are drafts
    head: int = -1  # which of ``Load.heads`` makes the partial; -1: none
    q: tuple[SparseQ | None, ...] = ()  # what each node was sampled from, where the drafter told
    own: int = 0  # how many of the nodes, the last ones, are the edge's own: no evidence of them
    reflect: bool = False  # the target is asked to look at the drafts again: ``Evidence.reflected``


class Item(Struct, frozen=True):
    """One session's part of a step."""

    extent: Extent
    span: Span
    sampling: Sampling
    paths: tuple[tuple[int, ...], ...] | None = None  # ids up to and with each wanted row, where a penalty reads them
    row: bool = False  # the row where the walk along the choices leaves the span's drafts is wanted too
    judged: Judged | None = None  # evidence is wanted of every draft that is not the choice after its parent
    owner: Owner = Owner()  # all rows that it reads must be its own


class Step(Struct, frozen=True, tag=True):
    """One wide pass over spans of many sessions; of each session at most one."""

    number: int
    items: tuple[Item, ...]
    fills: tuple[Fill, ...] = ()  # in this order


class Outcome(Struct, frozen=True):
    """What became of one item: the target's choice after each wanted row, or why there is none."""

    choices: tuple[int, ...] = ()
    near_ties: tuple[int, ...] = ()  # indices of the choices that rounding could have turned
    failure: str = ""  # one line; the item's rows are as if it had not run
    row: TargetRow | None = None  # where ``Item.row`` asked for it and a draft was missed
    evidence: tuple[Evidence, ...] = ()  # where ``Item.judged`` asked for it


class StepDone(Struct, frozen=True, tag=True):
    """A step's outcomes, in the order of its items, and what it took."""

    number: int
    outcomes: tuple[Outcome, ...]
    positions: int = 0  # that were asked for
    computed: int = 0  # that the model computed, padding included
    pass_s: float = 0.0  # the model and the choice of tokens
    host_s: float = 0.0  # whatever else the engine did from the step's arrival to its end
    isolation_faults: int = 0  # items and copies that were refused, since rows were not their own


class DraftItem(Struct, frozen=True):
    """A wish for tokens of the edge's own drafter."""

    session: int  # names what the drafter keeps of this session
    sampling: Sampling
    ids: tuple[int, ...]  # the whole path: a drafter that forgot a session, or lost an engine, goes on all the same
    count: int


class DraftStep(Struct, frozen=True, tag=True):
    """Drafts for several sessions at once; ``forget`` names sessions that are gone."""

    number: int
    items: tuple[DraftItem, ...]
    forget: tuple[int, ...] = ()


class Drafted(Struct, frozen=True, tag=True):
    """What was drafted for each item; nothing where the drafter failed."""

    number: int
    tokens: tuple[tuple[int, ...], ...]
    draft_s: float = 0.0
