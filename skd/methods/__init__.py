"""Methods: what builds the transfers of a distillation."""

from skd.methods._layers import Layer, LayerMethod
from skd.methods.at import AT
from skd.methods.cc import CC
from skd.methods.cwd import CWD
from skd.methods.fitnets import FitNets
from skd.methods.output_only import OutputOnly
from skd.methods.pkd import PKD
from skd.methods.pkt import PKT
from skd.methods.rkd import RKD
from skd.methods.sp import SP
from skd.methods.symmetric import SKD
from skd.methods.transfer import Method, Stage, Through, Transfer
from skd.methods.vid import VID

__all__ = [
    "AT",
    "CC",
    "CWD",
    "PKD",
    "PKT",
    "RKD",
    "SKD",
    "SP",
    "VID",
    "FitNets",
    "Layer",
    "LayerMethod",
    "Method",
    "OutputOnly",
    "Stage",
    "Through",
    "Transfer",
]
