from .adapters import Adapted as Adapted
from .adapters import LoRA as LoRA
from .adapters import adapt as adapt
from .adapters import adapted_layers as adapted_layers
from .architectures import ARCHITECTURES as ARCHITECTURES
from .model import Model as Model
from .model import build_model as build_model
