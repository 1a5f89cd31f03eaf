"""What a recipe's settings can be, apart from it: every start of the command line needs these."""

from typing import Literal, get_args

Precision = Literal["auto", "float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Scaling = Literal["caffe", "tf", "torch", "signed", "lite", "none", "unit"]
DEFAULT = "vgg16"
"""The network that is used if none is named."""
LAYERS = "layers"
"""In place of one layer's name: a row of the maxima of every layer; see `Backbone.taps`."""
FINE_LAYERS = "layers-fine"
"""The same in precision float32, rounded less."""
EVERY_LAYER = {LAYERS: 8, FINE_LAYERS: 12}
"""Both, and to how many significant bits their values are rounded."""
