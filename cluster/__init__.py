"""Where work runs: executors and the resources they have. Imports no sibling package; one file imports Ray."""
