"""What a replay changes in a chain, and which steps that concerns. Knows nothing of runs and stores."""

from chains.replay.edits import SAMPLING, Edited, with_edits
from chains.replay.reach import Reach, Start, reach_of
from chains.replay.selection import Selection, selection_of

__all__ = ["SAMPLING", "Edited", "Reach", "Selection", "Start", "reach_of", "selection_of", "with_edits"]
