"""What is measured on real forward passes."""
