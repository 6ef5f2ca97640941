"""`tandem plan`: what a checkpoint takes, and which limits to set."""
