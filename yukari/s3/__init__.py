"""A Deferred S3 client: Twisted on the wire, botocore for what S3's requests and replies mean."""
