"""The sections of a report that show features."""

SECTIONS = ()
