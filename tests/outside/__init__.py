"""Programs of others that are too large for CI, or that no registry has: run by hand, against this service."""
