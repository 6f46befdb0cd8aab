"""What a replay changes in a chain, and which steps that concerns. Knows nothing of runs and stores."""

from chains.replay.edits import Edited, with_edits
from chains.replay.reach import Reach, Start, reach_of
from chains.replay.selection import Selection, selection_of
from chains.varying import SAMPLING

__all__ = ["SAMPLING", "Edited", "Reach", "Selection", "Start", "reach_of", "selection_of", "with_edits"]
