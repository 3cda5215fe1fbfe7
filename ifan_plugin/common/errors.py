"""The one exception that ends a command in a single line."""

from ifan_plugin.common.printable import one_line


class UserError(Exception):
    """Invalid input from outside: a file, an option key, an argument, a data set.

    The message is one line that names the file, key or argument and what would be valid. Commands print it
    and exit with status 2; anything else that is raised is a fault of ours and keeps its traceback. Control characters
    in it, of a file's name say, are escaped.
    """

    def __init__(self, message: str) -> None:
        # One raised in a DataLoader worker arrives again as the text of its traceback: the line itself comes last.
        if message.startswith("Caught ") and f"{type(self).__name__}: " in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[1].strip()
        super().__init__(one_line(message))
