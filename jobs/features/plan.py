"""What `features` would take."""
