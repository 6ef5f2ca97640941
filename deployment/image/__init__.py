"""What the Dockerfile copies into the stages of its build."""
