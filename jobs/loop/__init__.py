"""The one loop that every job runs through."""
