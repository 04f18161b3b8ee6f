"""`unclip fit`, `validate`, `test` and `predict`: LightningCLI and its callbacks."""
