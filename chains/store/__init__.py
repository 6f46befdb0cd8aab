"""What runs leave behind: runs, steps, records, attempts, blobs, models and collections, in one folder."""

from __future__ import annotations

from chains.store.admitting import Verdict
from chains.store.claiming import Claim
from chains.store.files import atomic_write
from chains.store.leasing import PartLease
from chains.store.linking import Link
from chains.store.opening import is_server, open_store, open_to_rebuild, store_exists
from chains.store.pruning import PruneReport
from chains.store.rates import Slots
from chains.store.rows import (
    UNREAD,
    AttemptRow,
    AttemptState,
    CollectionRow,
    ModelKind,
    ModelRow,
    RecordRow,
    RecordStatus,
    Row,
    RunRow,
    RunStatus,
    StepRow,
    StepStatus,
)
from chains.store.spending import Limit, Settlement, Usage
from chains.store.store import Store
from chains.store.verifying import VerifyReport

__all__ = [
    "UNREAD",
    "AttemptRow",
    "AttemptState",
    "Claim",
    "CollectionRow",
    "Limit",
    "Link",
    "ModelKind",
    "ModelRow",
    "PartLease",
    "PruneReport",
    "RecordRow",
    "RecordStatus",
    "Row",
    "RunRow",
    "RunStatus",
    "Settlement",
    "Slots",
    "StepRow",
    "StepStatus",
    "Store",
    "Usage",
    "Verdict",
    "VerifyReport",
    "atomic_write",
    "is_server",
    "open_store",
    "open_to_rebuild",
    "store_exists",
]
