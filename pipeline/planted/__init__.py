"""The planted checkpoint, whose truth is known."""
