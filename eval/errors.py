"""The harness raises the core's errors, under one name."""

from mast.errors import UserError as UserError
from mast.errors import unknown as unknown
