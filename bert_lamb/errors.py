"""What a command tells its user instead of a traceback. Imports nothing of ours."""

EXIT_USAGE = 2  # the shell's usual code: settings, data or devices do not fit
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: asked to stop; run the same command again


class UserError(Exception):
    """A message for whoever typed the command: what was met, in which file or setting, and the way out."""
