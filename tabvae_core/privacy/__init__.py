"""Differential privacy: accounting, what a model may know of columns, the ledger over refreshes."""
