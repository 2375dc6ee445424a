"""Methods: what builds the transfers of a distillation."""

from skd.methods._layers import Layer, LayerMethod
from skd.methods.fitnets import FitNets
from skd.methods.output_only import OutputOnly
from skd.methods.symmetric import SKD
from skd.methods.transfer import Method, Stage, Through, Transfer

__all__ = [
    "SKD",
    "FitNets",
    "Layer",
    "LayerMethod",
    "Method",
    "OutputOnly",
    "Stage",
    "Through",
    "Transfer",
]
