"""The common base of all commands: arguments, errors, devices, progress, printing."""
