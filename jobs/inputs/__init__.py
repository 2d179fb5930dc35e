"""What a job stands on, each with an identity."""
