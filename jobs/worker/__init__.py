"""What several jobs' workers share."""
