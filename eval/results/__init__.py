"""What was measured, kept and shown: records, tables, comparisons, figures, reports."""
