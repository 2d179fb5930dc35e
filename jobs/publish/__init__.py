"""A run as a data set that others can load: tables with layer and head columns, and a card."""
