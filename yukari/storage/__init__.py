"""Where manifests and blobs are kept: one interface, several stores."""
