"""The rooms of `yukari.fills`, without a network and without a disk."""
