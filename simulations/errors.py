"""What went wrong and whose fault it is.

`InputError` is bad input: a file, a value or a message that cannot be used, told with the field,
the value and what was expected. It is a ``ValueError``, so that callers of the library may catch
either. Any other ``ValueError`` that reaches a command, the API or a worker is a fault of
Beamsteer and is told as such.
"""

from __future__ import annotations


class InputError(ValueError):
    """What was given cannot be used; says which field, its value and what was expected."""
