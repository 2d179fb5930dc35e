"""The mathematics: checkpoints, token states, circuits and scores. Imports no sibling and no Ray; writes no files."""
