"""Stages that learn from a trained stage, the teacher, to need fewer evaluations (2210.03142; 2202.00512)."""
