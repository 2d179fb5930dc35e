"""Models: their architecture, weights, layers and real forward pass."""
