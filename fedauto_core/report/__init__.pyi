from . import claims as claims
from . import contests as contests
from . import figures as figures
from . import record as record
