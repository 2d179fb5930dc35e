"""Sparse autoencoders over attention: what their files hold, and what their features say about heads."""
