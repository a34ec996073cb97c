"""Model adapters, a file for each kind of black box."""
