"""Methods: what builds the transfers of a distillation."""

from skd.methods.symmetric import SKD
from skd.methods.transfer import Method, Stage, Through, Transfer

__all__ = ["SKD", "Method", "Stage", "Through", "Transfer"]
