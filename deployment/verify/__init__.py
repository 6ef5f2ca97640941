"""`python -m deployment.verify`: image, Compose file and chart, run where the tools are."""
