"""One file per case; each holds one `CASE`."""
