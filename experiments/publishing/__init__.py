"""Commands that turn a run into something to show: reports, tables, figures, exports."""
