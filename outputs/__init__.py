"""What is left on disk: schemas, parts, manifests and run folders. Imports no sibling package."""
