"""Long runs against a real server: what it does beyond its capacity, and over many requests."""
