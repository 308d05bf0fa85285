"""Trial of the S3 client and the store in a bucket, against real servers on loopback."""
