"""The one exception that means "the user's input is wrong"."""


class InputError(ValueError):
    """Input that cgfe cannot use.

    Its message is one sentence that names the file or option, what was found and what was
    expected. The command line prints it without a traceback and exits with code 2.
    """
