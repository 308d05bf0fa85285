"""What a model consists of: its name, its details, the header of its weights, and its archive."""
