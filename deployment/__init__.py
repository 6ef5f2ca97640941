"""Image, Compose and chart: what is generated, and the checks that run them for real."""
