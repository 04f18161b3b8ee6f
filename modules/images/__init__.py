"""Pictures: files, tensors, JPEG, degradations."""
