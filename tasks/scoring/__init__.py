"""What an evaluate step measures besides its metrics over a prediction and a reference.

Owns nothing itself: `compared` says which rows count, the others are one way to score each.
"""
