"""Prefect flows and blocks, the command line, the demo. Import the module you need; this one is empty."""
