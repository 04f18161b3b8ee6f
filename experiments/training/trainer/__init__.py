"""Lightning's Trainer: which of its settings do what Lightning documents, and which are refused by name."""
