"""The stores of manifests and blobs, and the one interface that they have."""
