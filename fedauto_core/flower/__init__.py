"""FedAuto, and every other method whose clients are plain, as a strategy of Flower. Needs the extra [flower]."""

from fedauto_core.server.public import ServerData as ServerData
from fedauto_core.server.public import torch_data as torch_data

from .strategy import FedAutoStrategy as FedAutoStrategy
from .strategy import MethodStrategy as MethodStrategy
