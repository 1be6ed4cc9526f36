"""The errors that are training's own; they are reported like every other `AtrilError`.

RefusedError
└── DivergedError            the loss is not a number any more
InvalidInputError
└── CorruptDataError         a data file is not what it should be
NotFoundError
└── DataUnavailableError     a data file could be neither found nor downloaded
"""

from atril_common.errors import InvalidInputError, NotFoundError, RefusedError


class DivergedError(RefusedError):
    """The training loss became NaN or infinite; the text says where and with which rate."""


class CorruptDataError(InvalidInputError):
    """A data file has the wrong content; the text names it, what was got and what expected."""


class DataUnavailableError(NotFoundError):
    """A data file is not there; the text names every place that was tried and what it answered."""
