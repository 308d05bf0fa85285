"""The parts of a model: its name, its details, the header of its weights, and its archive."""
