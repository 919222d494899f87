"""What a MAST run learned, and what a suite says of its arms: the verb ``mast analyze``."""
