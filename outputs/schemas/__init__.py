"""Arrow schemas of all tables, one file a job."""
