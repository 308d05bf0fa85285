"""The catalog: what is stored, on which blobs it stands and who pulled it, in one SQLite file."""
