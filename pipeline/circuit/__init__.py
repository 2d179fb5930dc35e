"""A head's circuit: token states, queries and keys, spectrum, kin, steering."""
