"""From a plan to records: what a cell is, how one is measured, and who runs them."""
