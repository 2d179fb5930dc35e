"""What can be asked for: one specification and one file a job, and the command line."""
