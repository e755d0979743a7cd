"""Results shared through real servers: what comes over, and what is noticed."""
