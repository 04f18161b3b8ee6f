"""The ground floor of every command: arguments, errors, devices, progress, printing."""
