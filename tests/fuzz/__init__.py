"""Bad input: strategies, what every answer must keep to, and the long run of `make fuzz`."""
