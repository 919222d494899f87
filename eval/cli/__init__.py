"""The command `mast`: `entry` reads the command line, and each verb has a file of its own name."""
