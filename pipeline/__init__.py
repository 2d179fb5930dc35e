"""The mathematics: checkpoints, token states, circuits and scores. Imports no sibling package, no Ray, and writes no files."""
