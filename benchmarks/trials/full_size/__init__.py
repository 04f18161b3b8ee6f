"""A run of Karlo's full size with random weights, drawn from in bounded memory."""
