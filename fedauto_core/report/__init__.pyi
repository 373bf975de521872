from . import claims as claims
from . import figures as figures
from . import paper as paper
from . import record as record
