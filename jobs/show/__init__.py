"""`submit show`: what a finished run says of some tokens."""
