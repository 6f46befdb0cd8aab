"""What differs between two runs, and why a record is what it is. Reads the store, and nothing else."""

from chains.diff.causes import Cause
from chains.diff.recorded import RecordedRun
from chains.diff.runs import Divergence, RunDiff, StepDiff, diff_runs
from chains.diff.why import Why, why
from chains.diff.words import Piece, words

__all__ = [
    "Cause",
    "Divergence",
    "Piece",
    "RecordedRun",
    "RunDiff",
    "StepDiff",
    "Why",
    "diff_runs",
    "why",
    "words",
]
