from . import claims as claims
from . import figures as figures
from . import record as record
