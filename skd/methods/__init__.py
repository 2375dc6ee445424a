"""Methods: what builds the transfers of a distillation."""

from skd.methods._layers import Layer, LayerMethod
from skd.methods.at import AT
from skd.methods.attention_mse import AttentionMSE
from skd.methods.cc import CC
from skd.methods.cirkd import CIRKD
from skd.methods.collaborative import Collaborative
from skd.methods.cwd import CWD
from skd.methods.fitnets import FitNets
from skd.methods.fsp import FSP
from skd.methods.gan_compression import GANCompression
from skd.methods.hidden_states import HiddenStates
from skd.methods.hinton import Hinton
from skd.methods.ickd import ICKD
from skd.methods.kernel_alignment import KernelAlignment
from skd.methods.mgd import MGD
from skd.methods.nst import NST
from skd.methods.ofd import OFD
from skd.methods.omgd import OMGD
from skd.methods.output_only import OutputOnly
from skd.methods.pca_kd import PCAKD
from skd.methods.pkd import PKD
from skd.methods.pkt import PKT
from skd.methods.review_kd import ReviewKD
from skd.methods.rkd import RKD
from skd.methods.sp import SP
from skd.methods.structured_kd import StructuredKD
from skd.methods.symmetric import SKD
from skd.methods.transfer import Method, Stage, Through, Transfer
from skd.methods.vid import VID

__all__ = [
    "AT",
    "CC",
    "CIRKD",
    "CWD",
    "FSP",
    "ICKD",
    "MGD",
    "NST",
    "OFD",
    "OMGD",
    "PCAKD",
    "PKD",
    "PKT",
    "RKD",
    "SKD",
    "SP",
    "VID",
    "AttentionMSE",
    "Collaborative",
    "FitNets",
    "GANCompression",
    "HiddenStates",
    "Hinton",
    "KernelAlignment",
    "Layer",
    "LayerMethod",
    "Method",
    "OutputOnly",
    "ReviewKD",
    "Stage",
    "StructuredKD",
    "Through",
    "Transfer",
]
