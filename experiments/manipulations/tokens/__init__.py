"""DALL-E 1's image tokens: completion of pictures, and what each code looks like."""
