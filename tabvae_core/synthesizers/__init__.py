"""The methods: a contract, a registry, and one file a method."""
