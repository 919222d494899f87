"""Pure functions on arrays: metrics, intervals and tests. Nothing of the house is imported here."""
