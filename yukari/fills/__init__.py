"""
Blobs on their way: one fill a blob, its coverage, its readers and the connections that feed it.
"""
