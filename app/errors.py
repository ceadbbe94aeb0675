"""The errors this project raises on purpose, as one small tree.

    UserError                the person who started the program can put it right: one line, exit 2
    ├── SettingError         an environment variable has a value that is not allowed
    ├── ArtifactError        Kafka, Java or the market data can't be had here and now
    ├── DirectoryLockedError another live process holds this data directory
    ├── ProcessError         a process of the pipeline keeps dying
    ├── StuckError           the pipeline stands still with work left
    └── KafkaFailedError     the embedded broker can't be used
        ├── PortTakenError   something else listens on the broker's port
        └── KafkaDiedError   the broker's process ended by itself, at start or later

A message says what was wrong, where, and what to do, in one line without a trailing full stop.
"""


class UserError(Exception):
    """What the person at the keyboard can put right; the command line prints it as one line."""


class SettingError(UserError):
    """An environment variable has a value that is not allowed."""


class ArtifactError(UserError):
    """Kafka's jars, the Java runtime or the market data can't be had here and now."""


class DirectoryLockedError(UserError):
    """Another live process holds this data directory."""


class ProcessError(UserError):
    """A process of the pipeline keeps dying, or has ended before its work was done."""


class StuckError(UserError):
    """Nothing has moved for long, and there is work left."""


class KafkaFailedError(UserError):
    """The embedded broker can't be used."""


class PortTakenError(KafkaFailedError):
    """Something else listens on the broker's port."""


class KafkaDiedError(KafkaFailedError):
    """The broker's process ended by itself."""
