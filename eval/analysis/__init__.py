"""What a MAST run learned, what a suite says of its arms, and what features tell without labels."""
