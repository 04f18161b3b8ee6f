"""The one exception that means "what was given is wrong", as opposed to "the code is wrong"."""


class InputError(ValueError):
    """Something that a person gave is wrong; the message is one line that names it and the way out."""
