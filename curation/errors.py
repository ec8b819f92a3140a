"""Every error that this project raises on purpose.

The tree, and what the command line makes of it::

    CurationError              exit code 1: the work failed
    ├── InputError             exit code 2: the call or its input is wrong
    │   ├── ConfigError            a setting in curation.toml or on the command line
    │   ├── DataError              a table, a folder or an image given to us
    │   └── RecordError            an array or a record of the wrong shape, handed to a function
    ├── ProjectError           a project on disk is missing, locked, or not in the state the call needs
    │   └── ProjectLocked          another process works on this project
    ├── WeightsError           no pretrained weights for the backbone that was asked for
    ├── ServiceError           Label Studio, MongoDB, the FiftyOne App or Ray did not do what it should
    │   ├── LabelStudioError
    │   ├── DatabaseError
    │   └── EngineError        a Ray cluster lost its workers
    └── TrainingError          training can't go on (loss is not a number, nothing to train on)

Each message is one sentence that names the file, row or setting and says what to do next.
"""


class CurationError(Exception):
    """The work failed; the message says what, which, and what to do."""

    exit_code = 1


class InputError(CurationError):
    """The call or its input is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is unknown, of the wrong type, or out of range."""


class DataError(InputError):
    """A folder, table or image can't be used as given."""


class RecordError(InputError):
    """An array or record has the wrong shape, type or content."""


class ProjectError(CurationError):
    """A project on disk is missing, or not in the state that the call needs."""


class ProjectLocked(ProjectError):
    """Another process holds the project's lock."""


class WeightsError(InputError):
    """No pretrained weights can be had for the backbone; never replaced by random ones."""


class ServiceError(CurationError):
    """A service that we talk to did not do what it should."""


class LabelStudioError(ServiceError):
    """Label Studio could not be reached, refused us, or answered with something else."""


class DatabaseError(ServiceError):
    """The MongoDB that FiftyOne needs did not start or does not answer."""


class EngineError(ServiceError):
    """The cluster that computes lost its workers, or a task failed there."""


class TrainingError(CurationError):
    """Training can't go on."""


def printable(text: str) -> str:
    """Text on one line that any terminal can show: control characters and what is no text as escapes.

    >>> printable("a\\nb\\x1b[31m.png")
    'a\\\\nb\\\\x1b[31m.png'
    """
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in whole)
