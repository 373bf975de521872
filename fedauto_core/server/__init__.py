"""A method at the server of any federated stack: named arrays in, named arrays out. `flower` is built on it."""

from .coordinator import Coordinator as Coordinator
from .coordinator import Lost as Lost
from .coordinator import Update as Update
from .public import ServerData as ServerData
from .public import torch_data as torch_data
