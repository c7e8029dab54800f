"""What was measured, on disk: run folders, their evidence, and an index that can be rebuilt from them."""
