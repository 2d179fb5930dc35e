"""The commands of `submit`, one file a noun; heavy imports stay inside them, so that the store answers at once."""
