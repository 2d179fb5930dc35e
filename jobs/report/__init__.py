"""One HTML file of finished runs."""
