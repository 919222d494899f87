"""The transfer evaluation harness. Outside this package write ``from eval.x import y``, never ``import eval``."""
